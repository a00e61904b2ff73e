"""Two servers behind one address, restarted one after the other: watchers and recorders move over without a gap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.conftest import new_trace, senders, spool_dir
from tests.client.test_record import New
from tests.server.wire import http, stored
from tests.support import DEADLINE_S, ServerProcess, until
from tracewatch.client.trace import Trace
from tracewatch.client.watch import ConnectionStatus, watch
from tracewatch.log import open_log

__all__ = ["new_trace", "senders", "spool_dir"]  # fixtures
pytestmark = [pytest.mark.anyio, pytest.mark.crash]


class Balancer:
    """Passes each new connection on to one of the servers in turn; to the next one if that does not take it."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self.url = ""
        self.at: dict[int, int] = dict.fromkeys(ports, 0)  # connections there have been, by port
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.closing(writer):
                await self._pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self.ports:
            self._turn += 1
            port = self.ports[self._turn % len(self.ports)]
            try:
                back, upstream = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue  # it is being restarted
            self.at[port] += 1
            with contextlib.closing(upstream):
                pumps = {asyncio.create_task(pump(reader, upstream)), asyncio.create_task(pump(back, writer))}
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in pumps:
                        one.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            return

    async def close(self) -> None:
        """Drop every connection."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def balanced(*servers: ServerProcess) -> AsyncIterator[Balancer]:
    """A balancer before these servers, on a free port."""
    made = Balancer(*(server.port for server in servers))
    listening = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listening.close()
        await made.close()
        await listening.wait_closed()


class Reader:
    """A watch that goes on until its trace has ended, and what it got."""

    def __init__(self, url: str, trace_id: str) -> None:
        self.bodies: list[bytes] = []
        self.reconnects = 0
        self._watch = watch(trace_id, url=url, on_status=self._status)
        self.task = asyncio.create_task(self._run())

    def _status(self, status: ConnectionStatus) -> None:
        self.reconnects += status.kind == "reconnected"

    async def _run(self) -> None:
        async with self._watch:
            async for _ in self._watch:
                self.bodies.append(self._watch.last_bytes)


async def test_a_rolling_restart(tmp_path: Path, new_trace: New) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db, goaway_ms=200) as one, ServerProcess(db, goaway_ms=200) as two:
        async with balanced(one, two) as balancer:
            recorder = new_trace(balancer.url)
            recorder.event("thought", n=0)
            assert await recorder.aflush(DEADLINE_S)
            readers = [Reader(balancer.url, recorder.trace_id) for _ in range(8)]
            await until(lambda: all(reader.bodies for reader in readers))
            written = await record_through_restarts(recorder, readers, (one, two, one))
            recorder.complete("done")
            assert await recorder.aflush(DEADLINE_S)
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*(reader.task for reader in readers))
            assert min(balancer.at.values()) > 2, "both have served"
            async with http(balancer.url) as client:
                assert (await client.get("/healthz")).status_code == 200
    log = await open_log(str(db))
    bodies = await stored(log, recorder.trace_id)
    await log.close()
    assert len(bodies) == written + 2
    for reader in readers:
        assert reader.bodies == bodies
    assert sum(reader.reconnects for reader in readers) >= len(readers), "each was moved at least once"


async def record_through_restarts(recorder: Trace, readers: list[Reader], servers: tuple[ServerProcess, ...]) -> int:
    """Restart the servers one after the other while events are recorded; how many were."""
    written = 0
    for server in servers:
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        while not stopping.done():
            written += 1
            recorder.event("thought", n=written)
            await asyncio.sleep(0.005)
        assert await stopping == 0
        await asyncio.to_thread(server.start)
        goal = written
        await until(lambda goal=goal: all(len(reader.bodies) > goal for reader in readers))  # type: ignore[misc]
    return written
