"""A server that is killed while recorders append over HTTP and retry until they get an answer."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from tests.crash.checks import Ack, check_file
from tests.crash.writer import batch
from tests.support import DEADLINE_S, ServerProcess, until
from tracewatch.client.api import Api
from tracewatch.client.errors import ApiError, Unreachable

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
KILLS = 4


class Recorder(threading.Thread):
    """Appends over HTTP; what is not answered is sent again as it was."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(name=name)
        self.answered = 0
        self.repeated = 0
        self.error: BaseException | None = None
        self.stopping = False
        self.acks: list[Ack] = []
        self._api = Api(url, timeout_s=DEADLINE_S)

    def run(self) -> None:
        seq, size = 1, 3
        try:
            while not self.stopping:
                answer = self._send(seq, size)
                if answer["duplicates"] == 0:
                    self.acks.append((self.name, seq, size, answer["first_event_id"]))
                else:
                    assert answer["duplicates"] == size, "a batch is stored whole"
                    self.repeated += 1
                self.answered += 1
                seq += size
        except BaseException as error:
            self.error = error

    def _send(self, seq: int, size: int) -> dict[str, int]:
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                return self._api.append("t", batch(self.name, seq, size), producer=self.name, seq=seq)
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                assert time.monotonic() < end, "the server did not come back"
                time.sleep(0.02)  # it is down: nothing to wait on but time


async def test_recorders_through_restarts(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    server = await asyncio.to_thread(ServerProcess(db).start)
    recorders = [Recorder(server.url, f"r{n}") for n in range(3)]
    try:
        await asyncio.to_thread(Api(server.url).create_trace, {"trace_id": "t", "task": "Task"})
        for recorder in recorders:
            recorder.start()
        for _ in range(KILLS):
            for recorder in recorders:
                goal = recorder.answered + 5
                await until(lambda r=recorder, goal=goal: r.answered >= goal or r.error)  # type: ignore[misc]
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        for recorder in recorders:
            recorder.stopping = True
            await asyncio.to_thread(recorder.join, DEADLINE_S)
    finally:
        for recorder in recorders:
            recorder.stopping = True
        if server.process is not None:
            await asyncio.to_thread(server.kill)
    assert [recorder.error for recorder in recorders] == [None] * 3
    count = await check_file(db, [ack for recorder in recorders for ack in recorder.acks])
    assert count == 3 * sum(recorder.answered for recorder in recorders), "each answered batch once, and nothing else"
