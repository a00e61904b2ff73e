"""The connection: a server killed and started again, sockets that a proxy cuts, a dead socket that does not say so."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import allow
from tests.browser.runs import Run, goal, said, said_many, update
from tests.support import DEADLINE_S, ServerProcess
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


async def test_the_past_stays_on_the_screen_while_the_server_is_away(tmp_path: Path, page: Page) -> None:
    allow(page, "WebSocket connection to", "ERR_CONNECTION_REFUSED", "Failed to fetch")
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url)
        run.add(*said_many(0, 10))
        await page.goto(f"{run.url}?at=5")
        bar = page.locator(".pastbar")
        await expect(bar).to_contain_text("As it was after event 5")
        await page.evaluate(
            """() => new MutationObserver(() => {
            const bar = document.querySelector('.pastbar')?.textContent ?? '';
            window.left ||= !bar.includes('after event 5') || document.body.textContent.includes('Message 9.');
            }).observe(document.body, {childList: true, subtree: true, characterData: true})"""
        )
        server.kill()
        await expect(page.locator(".pill")).to_contain_text("reconnecting")
        server.start()
        await expect(page.locator(".pill")).to_contain_text("live")
        run.add(said("after it came back"))
        await expect(page.locator(".pill")).to_contain_text("live")
        assert not await page.evaluate("window.left")
        await page.keyboard.press("]")
        await expect(bar).to_contain_text("As it was after event 6")
        server.kill()
        await expect(page.locator(".pill")).to_contain_text("reconnecting")
        await page.keyboard.press("[")
        await expect(page.locator(".toast")).to_be_visible()  # it can't be read now
        await expect(bar).to_contain_text("As it was after event 6")
        server.start()
        await expect(bar).to_contain_text("As it was after event 5")
        await page.keyboard.press(".")
        await expect(page.get_by_text("after it came back")).to_be_visible()


class Proxy:
    """Passes bytes on, until it is told to cut its connections or to pass nothing on and say nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.frozen = False
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:  # the server is away
            writer.transport.abort()
            return
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


async def test_what_plays_goes_on_when_the_socket_is_cut(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*({**said(f"no {n}."), "occurred_at": f"2026-01-01T00:00:{n:02}Z"} for n in range(60)))
    async with proxied(server) as (proxy, url):
        await page.goto(f"{url}/traces/{run.id}?at=1")
        await expect(page.locator(".pastbar")).to_contain_text("after event 1")
        await page.get_by_label("Play").click()
        await expect(page.get_by_text("no 3.")).to_be_visible()
        await page.evaluate(
            """() => new MutationObserver(() => { window.back ||= !document.body.textContent.includes('no 3.') })
            .observe(document.body, {childList: true, subtree: true, characterData: true})"""
        )
        connections = proxy.connections
        proxy.cut()
        await expect(page.get_by_text("no 6.")).to_be_visible()
        assert proxy.connections > connections
        assert not await page.evaluate("window.back")
        await page.goto("about:blank")


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


ROWS = """rows => rows.map(row => [+row.dataset.event, row.querySelector('.body').textContent])"""


async def test_everything_at_once_and_in_the_end_what_the_log_says(tmp_path: Path, page: Page) -> None:
    """Sockets cut while text streams, goaways, and a kill -9; each message as the log has it, once, in order."""
    allow(page, "WebSocket connection to", "net::ERR_")
    await page.set_viewport_size({"width": 1280, "height": 4000})
    with ServerProcess(tmp_path / "log.db", heartbeat_s=1, goaway_ms=50) as server:
        run = Run(server.url)
        run.add(goal("1", "Say it"))
        async with proxied(server) as (proxy, url):
            await page.goto(f"{url}/traces/{run.id}")
            await expect(page.locator(".goal")).to_contain_text("Say it")
            for n in range(30):
                run.add(said("", message_id=f"s{n}", status="streaming"), update(f"s{n}", append=f"begun {n} "))
                if n % 5 == 2:
                    proxy.cut()
                if n == 9:
                    server.kill()
                    server.start()
                if n == 19:
                    assert await asyncio.to_thread(server.stop) == 0
                    server.start()
                    await expect(page.get_by_text("begun 19")).to_be_visible()
                run.add(*(update(f"s{back}", append=f"+{n}") for back in range(max(0, n - 3), n + 1)))
                await asyncio.sleep(0.02)  # let the page fall in between
            run.add(*(update(f"s{n}", status="complete") for n in range(30)))
            await expect(page.locator(".streaming")).to_have_count(0)
            messages = (await (await page.request.get(f"{server.url}/api/traces/{run.id}/messages")).json())["messages"]
            shown = await page.locator(".said .row.text").evaluate_all(ROWS)
            assert [text for _, text in shown] == [message["content"].strip() for message in messages]
            assert len(shown) == 30 and [event for event, _ in shown] == sorted({event for event, _ in shown})
            await expect(page.locator(".pill")).to_contain_text("live")
            await expect(page.locator(".goal .n")).to_have_text("30")
            await page.goto("about:blank")


async def test_what_was_missed_comes_in_one_paint(tmp_path: Path, page: Page) -> None:
    allow(page, "WebSocket connection to", "ERR_CONNECTION_REFUSED")
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url)
        run.add(*said_many(0, 10))
        await page.goto(run.url)
        await expect(page.get_by_text("Message 9.")).to_be_visible()
        await page.locator(".said").evaluate("""box => { window.sizes = new Set();
          new MutationObserver(() => sizes.add(box.querySelector('[aria-setsize]').ariaSetSize)).observe(
            box, {subtree: true, childList: true, attributes: true}) }""")
        server.kill()
        log = await open_log(str(tmp_path / "log.db"))
        for first in range(10, 1510, 500):
            await log.append(run.id, said_many(first, first + 500))
        await log.close()
        server.start()
        await expect(page.get_by_text("Message 1509.")).to_be_visible()
        await expect(page.locator(".pill")).to_contain_text("recovered 1,500 events")
        assert await page.evaluate("[...sizes]") == ["1510"]


def put_back(backup: Path, db: Path) -> None:
    """Restore a log as somebody does who knows no better: its file is copied back, into the same file (as cp does).

    So it is no copy that the log could know, and goes on under the same epoch.
    """
    for side in db.parent.glob(f"{db.name}-*"):
        side.unlink()
    shutil.copyfile(backup, db)


@pytest.mark.parametrize("how", ["reset", "ahead", "trimmed"])
async def test_a_gap_is_shown_where_it_is(tmp_path: Path, page: Page, how: str) -> None:
    allow(page, "WebSocket connection to", "ERR_CONNECTION_REFUSED")
    db, backup = tmp_path / "log.db", tmp_path / "backup.db"
    with ServerProcess(db) as server:
        run = Run(server.url)
        run.add(*said_many(0, 20))
        server.stop()
        shutil.copyfile(db, backup)
        server.start()
        run.add(goal("1", "Of the other history"), *said_many(20, 40))
        await page.goto(run.url)
        await expect(page.get_by_text("Message 39.")).to_be_visible()
        server.stop()
        if how == "trimmed":
            log = await open_log(str(db))
            await log.append(run.id, said_many(40, 800))
            await log.close()
        else:
            put_back(backup, db)
        if how == "trimmed":
            command = [sys.executable, "-m", "tracewatch", "prune", "--keep-events", "299", "--db", str(db)]
            await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        if how == "reset":
            with contextlib.closing(sqlite3.connect(db)) as file, file:
                file.execute("UPDATE meta SET value = 'another' WHERE key = 'epoch'")
        server.start()
        said_so = page.locator(".row.gap")
        words = {
            "reset": "replaced or restored from a backup. The 41 events this page had seen",
            "ahead": "The log ends at event 20, and this page had seen 41",
            "trimmed": "Events 42 to 500 have been trimmed",
        }[how]
        if how == "trimmed":
            await expect(page.get_by_text("Message 799.")).to_be_visible()
            hint = page.get_by_role("button", name="Events are missing")  # far above what one sees
            await hint.click()
            await expect(said_so).to_be_in_viewport()
            await expect(hint).to_have_count(0)
        await expect(said_so).to_contain_text(words)
        rows = await page.locator(".said .row").evaluate_all("rows => rows.map(row => +row.dataset.event)")
        assert rows == sorted(rows)
        assert {"reset": 0.5, "ahead": 20.5, "trimmed": 500.5}[how] in rows
        await expect(page.locator(".goal")).to_have_count(1 if how == "trimmed" else 0)
        run.add(said("and it goes on"))
        await page.keyboard.press("G")
        await expect(page.get_by_text("and it goes on")).to_be_visible()
        await expect(page.locator(".pill")).to_contain_text("live")


WORDS = """pill => { window.words = new Set();
  new MutationObserver(() => words.add(pill.textContent.replace(/[0-9,]+/g, 'N'))).observe(
    pill, {subtree: true, childList: true, characterData: true}) }"""


async def test_a_page_too_slow_for_the_head_loses_nothing(tmp_path: Path, page: Page) -> None:
    """Its thread stands while more comes than the buffers between hold: the server paces it from the log."""
    heard: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: heard.append(str(frame)[:40])))
    with ServerProcess(tmp_path / "log.db", watcher_bytes=16_384, write_stall_s=60) as server:
        run = Run(server.url)
        run.add(said("Message 0."))
        await page.goto(run.url)
        await expect(page.locator(".pill")).to_contain_text("live")
        await page.locator(".pill").evaluate(WORDS)
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Debugger.enable")
        await devtools.send("Debugger.pause")
        for first in range(1, 1501, 50):
            events = [said(f"Message {n}. " + "x" * 20_000) for n in range(first, first + 50)]
            await asyncio.to_thread(run.add, *events)  # 30 MB
        await devtools.send("Debugger.resume")
        await expect(page.get_by_text("Message 1500.")).to_be_visible()
        await expect(page.locator(".pill")).to_contain_text("live")
        assert [frame for frame in heard if '"fell_behind"' in frame]
        # With how many are left, unless all of them stood in the buffers between and came in one paint
        assert "catching up" in str(await page.evaluate("[...words]"))
        await expect(page.locator(".facts .events")).to_have_text("1,501 events")
        await expect(page.locator(".said [role=listitem]").last).to_have_attribute("aria-setsize", "1501")
        assert await page.locator(".row.gap, .row.hole").count() == 0


async def test_online_again_and_the_socket_is_dead(server: ServerProcess, page: Page) -> None:
    """Heartbeats would tell only after half a minute."""
    run = Run(server.url)
    run.add(*said_many(0, 10))
    async with proxied(server) as (proxy, url):
        await page.goto(f"{url}/traces/{run.id}")
        await expect(page.get_by_text("Message 9.")).to_be_visible()
        proxy.frozen = True
        run.add(said("said into the dark"))
        async with asyncio.timeout(DEADLINE_S):  # not sooner than a second after the last word
            while not await page.get_by_text("said into the dark").count():
                await page.evaluate("dispatchEvent(new Event('online'))")
                await asyncio.sleep(0.2)
        await expect(page.locator(".pill")).to_contain_text("live")
        await page.goto("about:blank")


async def test_asleep_while_the_server_was_away(tmp_path: Path, page: Page) -> None:
    allow(page, "WebSocket connection to", "ERR_CONNECTION_REFUSED")
    await page.clock.install()
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url)
        run.add(*said_many(0, 10))
        await page.goto(run.url)
        await expect(page.locator(".pill")).to_contain_text("live")
        async with proxied(server) as (proxy, url):
            await page.goto(f"{url}/traces/{run.id}")
            await expect(page.get_by_text("Message 9.")).to_be_visible()
            await page.clock.run_for(6000)
            proxy.frozen = True
            run.add(*said_many(10, 15))
            await page.clock.fast_forward(3_600_000)  # an hour; due timers fire once, as after a sleep
            await expect(page.get_by_text("Message 14.")).to_be_visible()
            await expect(page.locator(".pill")).to_contain_text("recovered 5 events")
            await page.goto("about:blank")


async def test_the_pill_when_nobody_answers(tmp_path: Path, page: Page) -> None:
    allow(page, "WebSocket connection to", "net::ERR_")
    await page.clock.install()
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url)
        run.add(said("here"))
        async with proxied(server) as (proxy, url):
            await page.goto(f"{url}/traces/{run.id}")
            pill = page.locator(".pill")
            await expect(pill).to_contain_text("live")
            proxy.frozen = True
            await page.clock.run_for(21_000)  # and no heartbeat
            await expect(pill).to_contain_text("asking")
            server.kill()
            proxy.cut()
            await expect(pill).to_contain_text("reconnecting")
            await page.clock.run_for(40_000)
            await expect(pill).to_contain_text("offline since")
            await expect(page.get_by_text("here")).to_be_visible()
            server.start()
            await page.clock.run_for(21_000)  # it goes on trying, at least every 20 s
            await expect(pill).to_contain_text("live")
            await page.goto("about:blank")
