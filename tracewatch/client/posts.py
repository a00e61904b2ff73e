"""The line of a trace whose events go by HTTP, for where no WebSocket gets through: ``POST …/events``.

Rule 1: appends go one after the other on a kept connection. They are numbered, so that one whose answer was lost is
        sent again without harm.
Rule 2: what a record socket is told, the commands, is asked for: with each heartbeat, every ``LOOK_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from .api import FOREIGN, refusal
from .control import Told
from .errors import ApiError, Unreachable
from .http import HttpConnection
from .lines import Answers, Cut, Verdict
from .target import Target

LOOK_S = 3.0
CALL_TIMEOUT_S = 10.0
NEVER = 2**53 - 1  # a seq that no producer comes to: the refusal says which one comes next


class PostedLine:
    """One producer of one trace. ``connect`` makes a connection."""

    def __init__(self, target: Target, connect: Callable[[], HttpConnection], trace_id: str, producer: str) -> None:
        self.expected_seq = 1
        self.told = Told()
        self._target = target
        self._connect = connect
        self._trace_id = trace_id
        self._producer = producer
        self._posting = connect()
        self._looking = connect()
        self._waiting: asyncio.Queue[tuple[int, list[bytes]]] = asyncio.Queue()
        self._answers = Answers()
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Ask where the log stands. Raises ApiError, Unreachable."""
        try:
            await self._post(NEVER, [b'{"event":"recorder_asks"}'])
        except ApiError as error:
            if error.code != "sequence_gap":
                raise
            self.expected_seq = int(error.facts.get("expected_seq") or 1)
        self.told = await self._look()
        self._tasks = [asyncio.create_task(work) for work in (self._send_all(), self._look_on())]

    async def _call(self, connection: HttpConnection, path: str, body: bytes, **headers: str) -> dict[str, Any]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer = await connection.call("POST", path, body, given)
        except TimeoutError as error:
            raise Unreachable(f"no answer in {CALL_TIMEOUT_S:.0f} s") from error
        try:
            found = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            found = None
        if answer.status >= 300 or not isinstance(found, dict):
            raise refusal(self._target.url, path, answer.status, answer.headers, answer.body)
        return found

    async def _post(self, seq: int, bodies: list[bytes]) -> None:
        path = self._target.path("api", "traces", self._trace_id, "events")
        numbered = {"Producer_Id": self._producer, "Producer_Seq": str(seq)}
        answer = await self._call(self._posting, path, b"[" + b",".join(bodies) + b"]", **numbered)
        if "last_event_id" not in answer:
            raise Unreachable("it does not answer like a tracewatch server")

    async def _look(self) -> Told:
        answer = await self._call(self._looking, self._target.path("api", "traces", self._trace_id, "heartbeat"), b"")
        inputs = answer.get("inputs")  # older servers have none
        return Told(answer.get("cancel_requested"), inputs if isinstance(inputs, list) else [])

    async def _send_all(self) -> None:
        try:
            while True:
                seq, bodies = await self._waiting.get()
                try:
                    await self._post(seq, bodies)
                except ApiError as error:
                    self._answers.put(_verdict(seq, error))
                else:
                    self._answers.put(Verdict(seq + len(bodies) - 1))
        except ApiError as error:
            self._answers.put(error)
        except Unreachable as error:
            self._answers.put(Cut(error.message))

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                told = await self._look()
            except (ApiError, Unreachable):
                continue  # the next append says what is wrong
            if told.cancel is not None or told.inputs:
                self._answers.put(told)

    async def send(self, seq: int, bodies: Sequence[bytes]) -> None:
        """See TraceLine.send."""
        self._waiting.put_nowait((seq, list(bodies)))

    async def answer(self) -> Verdict | Told | None:
        """See TraceLine.answer."""
        return await self._answers.next()

    async def heartbeat(self) -> None:
        """See TraceLine.heartbeat: looking for commands is one."""

    def suspect(self) -> None:
        """See TraceLine.suspect."""
        self._posting.close()

    async def close(self) -> None:
        """See TraceLine.close."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._posting.close()
        self._looking.close()


def _verdict(seq: int, error: ApiError) -> Verdict:
    """The refusal of an append. Raises the error if it is none of the log's."""
    if error.status == 413:
        return Verdict(seq, "too_large", error.message, None, error.details)
    if error.status >= 500 or error.status in (401, 403, 408, 429) or error.code in FOREIGN:
        raise error
    expected = error.facts.get("expected_seq")
    return Verdict(seq, error.code, error.message, expected if isinstance(expected, int) else None, error.details)
