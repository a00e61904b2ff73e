"""The list holds still under the pointer; going back, forward and reloading show a page as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import allow
from tests.browser.runs import Run, goal, said, said_many, written
from tests.support import ServerProcess
from tracewatch.log import EventLog
from tracewatch.model.events import validate_trace

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TOP_ROW = """box => { const at = box.getBoundingClientRect();
  const row = document.elementFromPoint(at.left + 200, at.top + 16)?.closest('.tr, .row');
  const name = row && (row.dataset.event ?? row.querySelector('a').textContent);
  return row && [name, Math.round(row.getBoundingClientRect().top)] }"""

UNTIL_KEPT = """() => new Promise((done, late) => { setTimeout(late, 20000); const look = () =>
  history.state.kept?.said && history.state.kept.tree ? done() : requestAnimationFrame(look); look() })"""
UNTIL_KEPT_PLACE = UNTIL_KEPT.replace("said", "place").replace("tree", "open")
UNTIL_READ = f"""(box, read) => new Promise((done, late) => {{ setTimeout(late, 20000); const top = {TOP_ROW};
  const look = () => String(top(box)) === String(read) ? done() : requestAnimationFrame(look); look() }})"""
STANDS = """box => new Promise(done => { let [before, frames] = [-1, 0];
  const look = () => { frames = before === box.scrollTop ? frames + 1 : 0; before = box.scrollTop;
    frames > 20 ? done() : requestAnimationFrame(look) };
  look() })"""
SCROLL_AND_KEEP = """(box, by) => new Promise((done, late) => { setTimeout(late, 20000);
  const kept = () => JSON.stringify(history.state?.kept?.said); let before;
  const look = () => kept() !== before ? done() : requestAnimationFrame(look);
  const wait = () => (before = kept()) ? (box.scrollTop += by, look()) : requestAnimationFrame(wait); wait() })"""
# As a click does on a link to a run that is far from what one reads
OPEN = """address => { const link = document.createElement('a'); link.setAttribute('href', address);
  document.body.append(link); link.click(); link.remove() }"""


async def many(log: EventLog) -> None:
    for n in range(-70, 90):  # more than are drawn whole
        await log.create_trace(validate_trace({"trace_id": f"r{n:02}", "task": f"Run {n:02}"}))
        await log.append(f"r{n:02}", [said("hello")])  # a run starts with its first event


async def test_the_list_holds_still_and_a_click_opens_what_was_pointed_at(tmp_path: Path, page: Page) -> None:
    await written(tmp_path / "log.db", many)
    allow(page, "CONNECTION_REFUSED", "WebSocket")  # the server goes before the page
    with ServerProcess(tmp_path / "log.db") as server:
        await page.goto(f"{server.url}/?sort=activity")
        row = page.locator(".tr", has_text="Run 85")
        await row.hover()
        at = await row.bounding_box()
        asked = Run(server.url, "It asks")
        asked.add({"event": "input_requested", "request_id": "q", "question": "Go on?"})
        await expect(
            page.get_by_text("Go on?", exact=True)
        ).to_be_visible()  # what needs a person is shown at once, above
        await expect(page.locator(".float")).to_have_text("↑ 1 new")
        assert await row.bounding_box() == at
        asked.api.answer(asked.id, "q", "yes", by="me")
        await expect(page.get_by_text("Go on?", exact=True)).to_have_count(0)
        assert await row.bounding_box() == at
        await page.mouse.down()
        await page.mouse.up()
        await expect(page.locator("h1")).to_have_text("Run 85")
        await page.go_back()
        await page.mouse.move(5, 5)
        await expect(page.locator(".tbody .tr").first).to_contain_text("It asks")
        # Scrolled away from the top it holds as well, whoever points where
        box = page.locator(".tbody")
        await box.evaluate("box => { box.scrollTop = 32 * 30 }")
        await expect(page.locator(".tr", has_text="Run 40")).to_be_visible()
        before = await box.evaluate(TOP_ROW)
        Run(server.url, "It is new")
        await expect(page.locator(".float")).to_have_text("↑ 1 new")
        assert await box.evaluate(TOP_ROW) == before
        await page.click(".float")
        await expect(page.locator(".tbody .tr").first).to_contain_text("It is new")
        assert await box.evaluate("box => box.scrollTop") == 0


async def test_back_forward_and_reload_show_each_page_as_it_was(tmp_path: Path, page: Page) -> None:
    await written(tmp_path / "log.db", many)
    allow(page, "CONNECTION_REFUSED", "WebSocket")  # the server goes before the page
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url, "The long run")
        run.add(goal("1", "One"), goal("2", "Two", parent_id="1"), *said_many(0, 150))
        for n in range(3):
            Run(server.url, f"Child {n}", parent_trace_id="r40")
        await page.goto(server.url)
        list_box, said_box = page.locator(".tbody"), page.locator(".said")
        await expect(page.get_by_text("The long run")).to_be_visible()
        await list_box.evaluate("box => { box.scrollTop = 32 * 40 }")
        await page.locator(".tr", has_text="Run 40").locator("button.twist").click()
        await expect(page.get_by_text("Child 1")).to_be_visible()
        left = await list_box.evaluate(TOP_ROW)
        # A run in which one reads, and unfolds
        await page.evaluate(OPEN, f"/traces/{run.id}")
        await expect(page.get_by_text("Message 149.")).to_be_visible()
        await page.locator(".goal button.twist").first.click()
        await expect(page.locator(".goal", has_text="Two")).to_have_count(0)
        await said_box.evaluate("box => { box.scrollTop = 2000 }")
        await expect(page.locator(".float")).to_be_visible()
        read = await said_box.evaluate(TOP_ROW)
        await page.go_back()
        await expect(page.get_by_text("Child 1")).to_be_visible()
        assert await list_box.evaluate(TOP_ROW) == left
        await page.go_forward()
        await expect(page.locator(".float")).to_be_visible()
        await expect(page.locator(".goal", has_text="One")).to_be_visible()
        assert await said_box.evaluate(TOP_ROW) == read
        await expect(page.locator(".goal", has_text="Two")).to_have_count(0)
        run.add(said("meanwhile"))
        await expect(page.locator(".float")).to_contain_text("1 new")
        # What is kept in memory only would be lost now
        await page.evaluate(UNTIL_KEPT)
        await page.reload()
        await expect(page.locator(".float")).to_be_visible()
        await said_box.evaluate(UNTIL_READ, read)
        await expect(page.locator(".goal", has_text="Two")).to_have_count(0)
        await page.go_back()
        await expect(page.get_by_text("Child 1")).to_be_visible()
        assert await list_box.evaluate(TOP_ROW) == left
        await page.evaluate(UNTIL_KEPT_PLACE)
        await list_box.hover()  # where the pointer rests must not count before the list is long enough
        await page.reload()
        await expect(page.get_by_text("Child 1")).to_be_visible()
        await expect(page.locator(".float")).to_have_count(0)
        await list_box.evaluate(UNTIL_READ, left)


async def test_a_link_that_is_reloaded_marks_its_row_and_stays_where_one_reads(
    server: ServerProcess, page: Page
) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 400))
    await page.goto(f"{run.url}?event=44")
    await expect(page.locator(".row.hit")).to_have_attribute("data-event", "44")
    box = page.locator(".said")
    await expect(page.locator(".row.hit")).to_be_in_viewport()
    await box.evaluate(SCROLL_AND_KEEP, 60)
    read = await box.evaluate(TOP_ROW)
    await page.reload()
    await expect(page.locator(".row.hit")).to_have_attribute("data-event", "44")
    await box.evaluate(STANDS)
    assert await box.evaluate(TOP_ROW) == read
