"""Runs that are too large to be read at once: links far back, pages cut by bytes, contents that the page drops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Request, expect

from tests.browser.conftest import allow
from tests.browser.runs import Event, Run, goal, said, said_many, written
from tests.support import DEADLINE_S, ServerProcess
from tracewatch.log import EventLog
from tracewatch.model.events import validate_trace

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
GOALS, EACH = 100, 99  # goals and the messages of each: 10,000 events


@pytest.fixture(scope="module")
async def long(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with the run ``long``: event n says "Message n.", but for every hundredth, which begins a goal."""
    db = tmp_path_factory.mktemp("long") / "log.db"

    async def write(log: EventLog) -> None:
        await log.create_trace(validate_trace({"trace_id": "long", "task": "A long run"}))
        for n in range(GOALS):
            first = n * (EACH + 1) + 1
            events = [goal(f"g{n}", f"Goal {n}")]
            events += [said(f"Message {i}.", message_id=f"said-{i}") for i in range(first + 1, first + 1 + EACH)]
            await log.append("long", events)

    await written(db, write)
    with ServerProcess(db) as server:
        yield server


def pages_asked(page: Page) -> list[str]:
    """The pages of events that ``page`` asks for from now on."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/events?" in request.url:
            asked.append(request.url)

    page.on("request", note)
    return asked


@pytest.mark.parametrize(
    ("link", "event"), [("event=4044", 4044), ("message=said-4044", 4044), ("goal=g40", 4100), ("at=4044", 4044)]
)
async def test_a_link_far_back_is_gone_to_directly(long: ServerProcess, page: Page, link: str, event: int) -> None:
    asked = pages_asked(page)
    await page.route("**/events?*", lambda route: route.continue_() if len(asked) < 4 else route.abort())
    page.faults.allowed += ("ERR_FAILED",)  # type: ignore[attr-defined]
    await page.goto(f"{long.url}/traces/long?{link}")
    await expect(page.get_by_text(f"Message {event}.", exact=True)).to_be_visible()
    if link.startswith(("event", "message")):
        await expect(page.locator(".row.hit")).to_have_attribute("data-event", str(event))
        await expect(page.locator(".row.hit")).to_be_in_viewport()
        await expect(page.locator(".float")).to_contain_text("follow")


async def test_scrolling_both_ways_from_there(long: ServerProcess, page: Page) -> None:
    await page.goto(f"{long.url}/traces/long?event=4044")
    await expect(page.locator(".row.hit")).to_be_in_viewport()
    await page.mouse.move(800, 300)
    for way, last in ((-1, 3300), (1, 5200)):
        async with asyncio.timeout(DEADLINE_S):
            while not await page.get_by_text(f"Message {last}.", exact=True).count():
                await page.mouse.wheel(0, way * 600)
    events = await page.locator(".said .row[data-event]").evaluate_all("rows => rows.map(row => +row.dataset.event)")
    assert events == sorted(events)
    assert set(range(events[0], events[-1] + 1)) - set(events) <= set(range(1, 10_001, 100))  # goals have no row
    await page.keyboard.press("G")
    await expect(page.get_by_text("Message 10000.", exact=True)).to_be_in_viewport()
    await page.keyboard.press("g")
    await expect(page.get_by_text("Message 2.", exact=True)).to_be_in_viewport()


def heavy(first: int, last: int) -> Iterator[Event]:
    for n in range(first, last):
        yield said(f"Heavy {n}.\n" + f"{n} " * 20_000)


async def test_contents_far_away_are_let_go_and_read_again(tmp_path: Path, page: Page) -> None:
    allow(page, "CONNECTION_REFUSED", "WebSocket")  # the server goes before the page

    async def write(log: EventLog) -> None:
        await log.create_trace(validate_trace({"trace_id": "heavy", "task": "Much to read"}))
        for first in range(1, 1000, 20):
            await log.append("heavy", list(heavy(first, first + 20)))  # 100 kB each: 100 MB

    await written(tmp_path / "log.db", write)
    with ServerProcess(tmp_path / "log.db") as server:
        devtools = await page.context.new_cdp_session(page)
        await page.goto(f"{server.url}/traces/heavy")
        await expect(page.get_by_text("Heavy 1000.")).to_be_visible()
        await expect(page.locator(".history")).to_contain_text("only where one looks")
        await devtools.send("HeapProfiler.collectGarbage")
        used = (await devtools.send("Runtime.getHeapUsage"))["usedSize"]
        assert used < 100e6, f"{used / 1e6:.0f} MB"
        await page.keyboard.press("g")
        await expect(page.get_by_text("Heavy 1.")).to_be_visible()
        await page.keyboard.press("G")
        row = page.locator(".row", has_text="Heavy 1000.")
        await row.get_by_role("button", name="Show all").click()
        await expect(row).to_contain_text("1000 " * 20_000)
        await page.goto(f"{server.url}/traces/heavy?event=100")  # read, then cut, then read again
        row = page.locator(".row.hit")
        await row.get_by_role("button", name="Show all").click()
        await expect(row).to_contain_text("100 " * 20_000)


async def test_pages_that_are_cut_by_their_bytes_lose_nothing(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 300))
    for n in range(300, 900, 100):
        run.add(*(said(f"Large {i}. " + "y" * 5000) for i in range(n, n + 100)))
    run.add(*said_many(900, 1200))
    await page.goto(run.url)
    await expect(page.get_by_text("Message 1199.")).to_be_visible()
    await expect(page.locator(".history")).to_have_count(0)
    await page.keyboard.press("/")
    await page.keyboard.type("large")
    await expect(page.locator(".search")).to_contain_text("/600")
