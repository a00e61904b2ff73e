"""What one reads stays: scrolling, selecting and copying while a run goes on, with wheel, keys and finger."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.runs import Event, Run, call, goal, said, said_many, update
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LEFT = "box => box.scrollHeight - box.scrollTop - box.clientHeight"
# The line of the text that stands some px below the top of the list
READ = """box => { const at = box.getBoundingClientRect(), column = box.querySelector('.body').getBoundingClientRect();
  const caret = document.caretRangeFromPoint(column.left + 60, at.top + 60);
  const text = caret.startContainer.data, from = caret.startOffset;
  return (text.slice(Math.max(0, from - 60), from + 60).match(/line (\\d+)/) ?? [])[1] }"""
SELECT = """(box, [from, to]) => { const places = [from, to].map((words, i) => {
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode()); ) {
      const at = node.data.indexOf(words);
      if (at >= 0) return [node, at + i * words.length] } });
  getSelection().setBaseAndExtent(...places[0], ...places[1]) }"""
FIRST_ROW = """box => { const top = box.getBoundingClientRect().top;
  for (const row of box.querySelectorAll('.row')) { const at = row.getBoundingClientRect();
    if (at.bottom > top) return [row.dataset.event, Math.round(at.top - top)] } }"""
PASTED = """async () => { for (;;) { const text = await navigator.clipboard.readText(); if (text) return text } }"""
TOLD = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"  # the page was told of a selection
STANDS = """box => new Promise(done => { let [before, frames] = [-1, 0];
  const look = () => { frames = before === box.scrollTop ? frames + 1 : 0; before = box.scrollTop;
    frames > 20 ? done() : requestAnimationFrame(look) };
  look() })"""
SELECTED = "() => getSelection().toString()"
COPIED = """() => new Promise(done => { addEventListener('copy', event =>
    done(event.clipboardData.getData('text/plain') || getSelection().toString()), {once: true});
  document.execCommand('copy') })"""


def lines(first: int, last: int) -> str:
    return "".join(f"line {n} of the answer, some words to fill it\n" for n in range(first, last))


@contextlib.asynccontextmanager
async def going_on(run: Run, make: Callable[[int], Event]) -> AsyncIterator[None]:
    """Some fifty events a second."""

    async def append() -> None:
        for n in range(100_000):
            await asyncio.to_thread(run.add, make(n))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(append())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def box_row(page: Page) -> Any:
    return await page.locator(".said").evaluate(FIRST_ROW)


async def to_end(page: Page) -> None:
    await page.click(".float")
    await expect(page.locator(".float")).to_have_count(0)


async def test_the_first_movement_up_ends_following(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 200), said("", message_id="live", status="streaming"))
    await page.goto(run.url)
    await expect(page.get_by_text("Message 199.")).to_be_visible()
    box = page.locator(".said")
    await page.mouse.move(800, 300)
    for make in (lambda n: update("live", append=f"word {n}\n"), lambda n: said(f"row {n}")):
        async with going_on(run, make):
            for step in (1, 20):
                for _ in range(10):
                    await page.mouse.wheel(0, -step)
                # The end goes on and on, and the list stays
                await box.evaluate(
                    "box => new Promise(done => { const look = () => "
                    f"({LEFT})(box) > 150 ? done() : requestAnimationFrame(look); look() }})"
                )
                await to_end(page)
            await page.mouse.wheel(0, -4)
            await expect(page.locator(".float")).to_be_visible()
            await page.mouse.wheel(0, 100_000)
            await expect(page.locator(".float")).to_have_count(0)
            await box.focus()
            await page.keyboard.press("ArrowUp")
            await expect(page.locator(".float")).to_be_visible()
            await box.evaluate(STANDS)
            await to_end(page)


async def test_a_finger_ends_following_too(server: ServerProcess, browser: Browser) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 100))
    context = await browser.new_context(viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True)
    page = await context.new_page()
    await page.goto(run.url)
    await expect(page.get_by_text("Message 99.")).to_be_visible()
    async with going_on(run, lambda n: said(f"row {n}")):
        devtools = await context.new_cdp_session(page)
        for y in (300, *range(304, 348, 4)):
            name = "touchStart" if y == 300 else "touchMove"
            touch = {"type": name, "touchPoints": [{"x": 200, "y": y}]}
            await devtools.send("Input.dispatchTouchEvent", touch)
        await devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        await expect(page.locator(".float")).to_contain_text("new")
        before = await box_row(page)
        await expect(page.locator(".float")).to_contain_text(re.compile("[2-9][0-9] new"))
        assert await box_row(page) == before
        await page.tap(".float")
        await expect(page.locator(".float")).to_have_count(0)
    await context.close()


async def test_a_long_message_stays_under_the_eyes_while_it_streams_and_when_it_is_complete(
    server: ServerProcess, page: Page
) -> None:
    run = Run(server.url)
    run.add(said("", message_id="live", status="streaming"))
    for n in range(0, 800, 100):
        run.add(update("live", append=lines(n, n + 100)))
    await page.goto(run.url)
    await expect(page.get_by_text("line 799 ")).to_be_visible()
    box = page.locator(".said")
    await page.mouse.move(800, 300)
    await page.mouse.wheel(0, -2400)
    await expect(page.locator(".float")).to_be_visible()
    read = await box.evaluate(READ)
    for n in range(800, 1200, 100):
        run.add(update("live", append=lines(n, n + 100)))
    run.add(said("below it"))
    await expect(page.locator(".float")).to_contain_text("1 new")
    assert await box.evaluate(READ) == read
    # Markdown has other heights above the place that is read
    run.add(update("live", append="\n\n# The end\n\n- **one**\n- two\n", status="complete"))
    await expect(page.locator(".said strong")).to_have_count(1)
    assert abs(int(await box.evaluate(READ)) - int(read)) <= 1  # its lines are a little higher
    await page.keyboard.press("g")
    await expect(page.get_by_text("line 0 of")).to_be_in_viewport()
    # Folded again, what stands below it stays
    await page.keyboard.press("f")
    await page.get_by_role("button", name="Show less").click()
    await expect(page.get_by_text("below it")).to_be_in_viewport()


async def test_what_is_selected_stays_and_is_what_is_copied(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(goal("1", "Look *closely*"), said("the first row"), call("t", arguments={"pattern": "x"}))
    content = {"tool_name": "grep", "arguments": {"pattern": "x"}, "result": "found it"}
    run.add(update("t", content=content, status="complete"))
    run.add(said("The quick *brown* fox. ", message_id="live", status="streaming"))
    await page.goto(run.url)
    await expect(page.get_by_text("brown")).to_be_visible()
    box = page.locator(".said")
    await box.evaluate(SELECT, ["quick *brown*", "fox"])
    run.add(update("live", append="It goes on."))
    await expect(page.get_by_text("It goes on.")).to_be_visible()
    assert await page.evaluate(SELECTED) == "quick *brown* fox"
    run.add(update("live", append=" And **ends**.", status="complete"))
    await expect(page.locator(".said strong")).to_be_visible()
    assert await page.evaluate(SELECTED) == "quick brown fox"
    run.add(*said_many(0, 120), said("the last row"))
    await expect(page.locator(".events")).to_have_text("128 events")
    assert await page.evaluate(SELECTED) == "quick brown fox"
    # Over rows that are not drawn
    await page.keyboard.press("g")
    await expect(page.get_by_text("the first row")).to_be_visible()
    await box.evaluate(SELECT, ["first row", "first row"])
    await page.evaluate(TOLD)
    await page.keyboard.press("f")
    await expect(page.get_by_text("the last row")).to_be_visible()
    await box.evaluate("""box => { const row = [...box.querySelectorAll('.plain')].at(-1).firstChild;
        getSelection().extend(row, 8) }""")
    copied = await page.evaluate(COPIED)
    assert copied.startswith("first row\n") and copied.endswith("assistant\nthe last")
    assert [n for n in range(120) if copied.count(f"Message {n}. ") != 1] == []
    assert "grep pattern x found it" in copied


async def test_a_message_a_goal_and_the_run_as_text_and_as_markdown(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "Fix *it*")
    run.add(goal("1", "First"), said("**bold** words"), call("t", arguments={"pattern": "x"}))
    content = {"tool_name": "grep", "arguments": {"pattern": "x"}, "result": "found ``` it"}
    run.add(update("t", content=content, status="complete"))
    run.add(goal("2", "Second"), said("in the second"))
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto(run.url)
    await expect(page.get_by_text("in the second")).to_be_visible()

    async def copied(name: str) -> str:
        await page.evaluate("navigator.clipboard.writeText('')")
        await page.get_by_role("button", name=name).last.click()
        text = await page.evaluate(PASTED)
        return re.sub(r"\d\d:\d\d:\d\d", "00:00:00", str(text))

    await page.locator(".export summary").click()
    text = await copied("Copy as text")
    assert text.startswith("Fix *it*\n========\n") and "[00:00:00] grep\n  pattern x\n  found ``` it\n" in text
    await page.locator(".export summary").click()
    text = await copied("Copy as Markdown")
    assert text.startswith("# Fix \\*it\\*\n") and "## First\n\n**assistant** 00:00:00\n\n**bold** words\n" in text
    assert '```json\n{\n  "pattern": "x"\n}\n```\n\n````\nfound ``` it\n````\n' in text
    await page.locator(".goal", has_text="Second").click()
    text = await copied("as Markdown")
    assert "\n\n## Second\n\n**assistant**" in text and text.endswith("in the second\n") and "bold" not in text
    await page.locator(".row .at").click()
    await expect(page.get_by_label("Inspector")).to_be_visible()
    assert await copied("as text") == "[00:00:00] assistant\nin the second"


MARKED = "() => [...(CSS.highlights.get('found') ?? [])].map(range => range.toString())"


async def test_what_is_found_is_what_is_seen(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    content = {"tool_name": "grep", "arguments": {"pattern": 'say "x"'}, "result": {"deep": {"er": ["the needle"]}}}
    run.add(said("Not **the nee**dle, but\n" * 40 + "the *nee*dle"), call("t"), said('{"result": 1}'))
    run.add(update("t", content=content, status="complete"))
    await page.goto(run.url)
    await expect(page.locator(".row")).to_have_count(3)
    await page.keyboard.press("/")
    await page.keyboard.type("needle")
    await expect(page.locator(".search")).to_contain_text("1/2")
    await expect(page.locator(".row.hit")).to_contain_text("the needle")  # the folded rest of it as well
    await page.keyboard.press("Enter")
    await expect(page.locator(".search")).to_contain_text("2/2")
    await expect(page.locator(".row.hit.tool .opened")).to_contain_text("the needle")
    assert "needle" in await page.evaluate(MARKED)
    for query, hits in (("pattern", "1/1"), ("result", "1/1"), ("arguments", "none"), ("**the", "none")):
        await page.fill(".search input", query)
        await expect(page.locator(".search")).to_contain_text(hits)


async def test_a_row_that_is_unfolded_and_scrolled_in_is_not_taken_for_the_end(
    server: ServerProcess, page: Page
) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 40), said("It is long.\n" + lines(0, 600)), *said_many(40, 80))
    await page.goto(f"{run.url}?event=41")
    row = page.locator(".row.hit")
    await row.get_by_role("button", name="Show all").click()
    box = page.locator(".said")
    await box.evaluate(STANDS)
    # The height before it was unfolded is no measure for where the end is
    await page.mouse.move(800, 300)
    await page.mouse.wheel(0, 6000)
    await box.evaluate(STANDS)
    await expect(row).to_be_in_viewport()
    assert await box.evaluate(LEFT) > 1000
