"""The connection: a server killed and started again, sockets that a proxy cuts, a dead socket that does not say so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import allow
from tests.browser.runs import Run, said, said_many
from tests.support import ServerProcess
from tracewatch.log import open_log

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_server_killed_and_started_again(tmp_path: Path, page: Page) -> None:
    allow(page, "WebSocket connection to", "ERR_CONNECTION_REFUSED")
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url)
        run.add(*said_many(0, 30))
        await page.goto(run.url)
        await expect(page.get_by_text("Message 29.")).to_be_visible()
        server.kill()
        await expect(page.locator(".pill")).to_contain_text("reconnecting")
        await expect(page.get_by_text("Message 29.")).to_be_visible()
        # Straight into the file: the page must not be back before all of it is there
        log = await open_log(str(tmp_path / "log.db"))
        await log.append(run.id, said_many(30, 53))
        await log.close()
        server.start()
        await expect(page.get_by_text("Message 52.")).to_be_visible()
        await expect(page.locator(".pill")).to_contain_text("live · recovered 23 events")


class Proxy:
    """Passes bytes on, until it is told to cut its connections or to pass nothing on and say nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.frozen = False
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, there_writer}
        frozen = self.frozen  # those that come later are as they should be

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    if self.frozen and not frozen:
                        continue
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@contextlib.asynccontextmanager
async def proxied(server: ServerProcess) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(server.port)
    listening = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        proxy.cut()


async def test_a_proxy_that_cuts_sockets(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 10))
    async with proxied(server) as (proxy, url):
        await page.goto(f"{url}/traces/{run.id}")
        await expect(page.get_by_text("Message 9.")).to_be_visible()
        for n in range(3):
            proxy.cut()
            run.add(said(f"after cut {n}"))
            await expect(page.get_by_text(f"after cut {n}")).to_be_visible()
        events = await page.locator(".said .row").evaluate_all("rows => rows.map(row => row.dataset.event)")
        assert events == [str(n) for n in range(1, 14)]  # each once, in order
        await page.goto("about:blank")


async def test_a_dead_socket_that_does_not_say_so(tmp_path: Path, page: Page) -> None:
    with ServerProcess(tmp_path / "log.db", heartbeat_s=1) as server:
        run = Run(server.url)
        run.add(*said_many(0, 10))
        async with proxied(server) as (proxy, url):
            await page.goto(f"{url}/traces/{run.id}")
            await expect(page.get_by_text("Message 9.")).to_be_visible()
            await expect(page.locator(".pill")).to_contain_text("live")
            proxy.frozen = True
            run.add(said("said into the dark"))
            await expect(page.get_by_text("said into the dark")).to_be_visible()
            await expect(page.locator(".pill")).to_contain_text("live")
            await page.goto("about:blank")
