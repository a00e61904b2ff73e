"""A day in fast forward: two pages stay open over 24 hours of a faked clock and show in the end what fresh ones show.

Hours pass as a sleep does, in which no timer runs. Meanwhile the server is killed and started again, upgraded, and its
log restored from a backup; summer time ends in the reader's zone.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.runs import Run, completed, goal, said, update
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LIST = """() => [...document.querySelectorAll('.tbody .tr')].map(row => [row.className.replace(' focused', ''),
  ...[...row.querySelectorAll('.task, .c-now, .n-messages')].map(cell => cell.textContent)].join('|')).sort()"""
RUN = """() => [document.querySelector('.facts .state').textContent.trim(),
  [...document.querySelectorAll('.tree .goal')].map(goal => goal.textContent).join(),
  ...[...document.querySelectorAll('.said .row:not(.gap) .body')].slice(-10).map(body => body.textContent)]"""
NODES = "document.querySelectorAll('*').length"


async def cli(*words: str) -> None:
    command = [sys.executable, "-m", "tracewatch", *words]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


async def opened(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.clock.install(time="2026-10-24T12:00:00Z")
    await page.goto(url)
    await expect(page.locator(".pill")).to_contain_text("live")
    return page


async def heap(page: Page) -> int:
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("HeapProfiler.collectGarbage")
    return int((await devtools.send("Runtime.getHeapUsage"))["usedSize"])


async def test_a_day_in_fast_forward(tmp_path: Path, browser: Browser) -> None:
    db, backup = str(tmp_path / "log.db"), str(tmp_path / "backup.db")
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, timezone_id="Europe/Berlin")
    with ServerProcess(db) as server:
        run, other = Run(server.url, "The long run"), Run(server.url, "Another")
        run.add(goal("1", "Work"), *(said(f"before {n}") for n in range(20)))
        pages = [await opened(context, server.url), await opened(context, run.url)]
        await expect(pages[1].get_by_text("before 19")).to_be_visible()
        kept, nodes = 0, 0
        for hour in range(0, 24, 2):
            run.add(said("", message_id=f"s{hour}", status="streaming"), said(f"hour {hour}"))
            run.add(update(f"s{hour}", append=f"it is {hour} o'clock", status="complete"))
            if hour == 6:
                other.add(completed("failed", error="it broke"))
                await cli("backup", backup, "--db", db)
            if hour in (4, 12):
                server.kill()
                server.start()
            if hour == 18:
                server.stop()
                await cli("restore", backup, "--force", "--db", db)
                server.start()
            for page in pages:
                await page.clock.fast_forward(7_200_000)
                await page.clock.run_for(6_000)  # the machine is awake again, and the page looks at its socket
            await expect(pages[1].get_by_text(f"hour {6 if hour == 18 else hour}", exact=True)).to_be_visible()
            if hour == 8:
                kept, nodes = await heap(pages[1]), await pages[1].evaluate(NODES)
        for page, url, what in zip(pages, (server.url, run.url), (LIST, RUN), strict=True):
            await expect(page.locator(".pill")).to_contain_text("live")
            fresh = await opened(context, url)
            await fresh.clock.run_for(2_000)
            if what == RUN:
                await expect(fresh.get_by_text("hour 22", exact=True)).to_be_visible()
            else:
                await expect(fresh.locator(".tbody")).to_contain_text("The long run")
            await page.clock.run_for(2_000)
            assert await page.evaluate(what) == await fresh.evaluate(what)
        assert await heap(pages[1]) < kept * 1.5
        assert await pages[1].evaluate(NODES) < nodes * 1.5
    await context.close()
