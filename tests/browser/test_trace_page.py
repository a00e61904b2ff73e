"""The page of one trace: live, followed, searched, linked to, gone back in, exported."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, call, completed, goal, said, said_many, update
from tests.support import DEADLINE_S, ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

AT_END = """box => new Promise(done => {
  const look = () => box.scrollHeight - box.scrollTop - box.clientHeight <= 1 ? done() : requestAnimationFrame(look);
  look() })"""
STANDS = """box => new Promise(done => { let [before, frames] = [-1, 0];
  const look = () => { frames = before === box.scrollTop ? frames + 1 : 0; before = box.scrollTop;
    frames > 20 ? done() : requestAnimationFrame(look) };
  look() })"""
FIRST_ROW = """box => { const top = box.getBoundingClientRect().top;
  for (const row of box.querySelectorAll('.row')) { const at = row.getBoundingClientRect();
    if (at.bottom > top) return [row.dataset.event, Math.round(at.top - top)] } }"""


async def at_the_end(page: Page) -> None:
    """Wait until the list stands at its end."""
    async with asyncio.timeout(DEADLINE_S):
        await page.locator(".said").evaluate(AT_END)


async def first_row(page: Page) -> Any:
    return await page.locator(".said").evaluate(FIRST_ROW)


async def test_a_live_run_from_start_to_end(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    await page.goto(run.url)
    await expect(page.locator("h1")).to_have_text("Fix the login bug")
    await expect(page.locator(".pill")).to_contain_text("live")
    run.add(goal("1", "Find the cause"), said("", message_id="s", status="streaming"))
    await expect(page.locator(".goal.current")).to_contain_text("Find the cause")
    for word in ("It is ", "the **cookie**."):
        run.add(update("s", append=word))
    await expect(page.locator(".streaming")).to_have_text("It is the **cookie**.")
    run.add(update("s", status="complete"))
    await expect(page.locator(".prose strong")).to_have_text("cookie")
    run.add(call("t", arguments={"pattern": "login"}))
    tool = page.locator(".row.tool")
    await expect(tool.locator(".is-running")).to_be_visible()
    run.add(update("t", content={"tool_name": "grep", "result": "found"}, status="complete", duration_ms=1234))
    await expect(tool).to_contain_text("1.2 s")
    run.add(call("u"), update("u", content={"tool_name": "grep", "error": "no such file"}, status="complete"))
    await expect(page.locator(".row.error")).to_contain_text("no such file")
    await expect(page.locator(".goal .trouble")).to_have_text("✕ 1")
    run.add(completed(summary="Fixed."))
    await expect(page.locator(".pill")).to_contain_text("ended")
    await expect(page.locator(".facts .state")).to_contain_text("completed")
    await expect(page).to_have_title(re.compile("^✓ Fix the login bug"))


async def test_it_follows_at_the_end_and_never_moves_what_one_reads(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 200))
    await page.goto(run.url)
    await expect(page.get_by_text("Message 199.")).to_be_visible()
    run.add(*said_many(200, 230))
    await expect(page.get_by_text("Message 229.")).to_be_visible()
    await at_the_end(page)
    await page.mouse.move(800, 300)
    await page.mouse.wheel(0, -2500)
    await expect(page.locator(".float")).to_contain_text("follow")
    await page.locator(".said").evaluate(STANDS)
    before = await first_row(page)
    run.add(*said_many(230, 267))
    await expect(page.locator(".float")).to_have_text("↓ 37 new")
    assert await first_row(page) == before
    await page.click(".float")
    await expect(page.get_by_text("Message 266.")).to_be_visible()
    await at_the_end(page)


async def test_a_link_to_an_event_far_back(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*said_many(1, 3000))
    await page.goto(f"{run.url}?event=44")
    await expect(page.locator(".row.hit")).to_have_attribute("data-event", "44")
    await expect(page.locator(".row.hit")).to_be_in_viewport()
    await expect(page.get_by_text("Message 44.")).to_be_visible()


async def test_search_and_errors_by_keys(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 50), said("the needle (one)"), *said_many(50, 900), said("the needle (two)"))
    run.add(call("bad", arguments={}), update("bad", content={"tool_name": "grep", "error": "broken"}))
    run.add(*said_many(900, 1000))
    await page.goto(run.url)
    await expect(page.get_by_text("Message 999.")).to_be_visible()
    await expect(page.locator(".history")).to_have_count(0)
    await page.keyboard.press("/")
    await page.keyboard.type("needle (")
    await expect(page.locator(".row.hit")).to_contain_text("(one)")
    await expect(page.locator(".search")).to_contain_text("1/2")
    await page.keyboard.press("Enter")
    await expect(page.locator(".row.hit")).to_contain_text("(two)")
    await page.keyboard.press("Escape")
    await page.keyboard.press("e")
    await expect(page.locator(".row.hit.error")).to_contain_text("broken")


async def test_a_goal_chosen_by_keys_filters_and_going_back_undoes_it(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(goal("1", "First"), said("in the first"), goal("2", "Second"), said("in the second"))
    await page.goto(run.url)
    await expect(page.get_by_text("in the second")).to_be_visible()
    await page.keyboard.press("h")
    await page.keyboard.press("Home")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("in the second")).to_have_count(0)
    await expect(page.get_by_text("in the first")).to_be_visible()
    assert page.url.endswith("?goal=1")
    await page.go_back()
    await expect(page.get_by_text("in the second")).to_be_visible()


async def test_a_sub_agent_opens_in_place(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(goal("1", "Ask a tester"))
    child = Run(server.url, "Test it", parent_trace_id=run.id, parent_goal_id="1")
    child.add(goal("c", "Run the tests"), said("all green"))
    await page.goto(run.url)
    row = page.locator(".goal", has_text="Test it")
    await row.locator("button.twist").click()
    await expect(page.locator(".goal", has_text="Run the tests")).to_have_attribute("aria-level", "3")
    await row.click()
    await expect(page.get_by_text("all green")).to_be_visible()
    child.add(said("and still green"))
    await expect(page.get_by_text("and still green")).to_be_visible()


async def test_the_page_as_it_was_after_an_event(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(goal("1", "First"), call("t", arguments={"a": 1}), said("half-way"))
    run.add(update("t", content={"tool_name": "grep", "result": "done"}, status="complete"))
    run.add({"event": "goal_updated", "goal_id": "1", "patch": {"status": "completed"}}, said("later"), completed())
    await page.goto(run.url)
    await expect(page.get_by_text("later")).to_be_visible()
    await page.get_by_label("After which event").press("Home")
    await expect(page.locator(".pastbar")).to_contain_text("after event 1")
    for _ in range(2):
        await page.get_by_label("After which event").press("ArrowRight")
    await expect(page.locator(".pastbar")).to_contain_text("after event 3")
    await expect(page.get_by_text("half-way")).to_be_visible()
    await expect(page.get_by_text("later")).to_have_count(0)
    await expect(page.locator(".facts .state")).to_contain_text("running")
    await expect(page.locator(".goal.is-in_progress")).to_have_count(1)
    await expect(page.locator(".row.tool .is-running")).to_be_visible()
    await page.keyboard.press("]")  # the range itself has no such key: one event on
    await page.locator(".said").focus()
    await page.keyboard.press("]")
    await expect(page.locator(".row.tool .is-completed")).to_be_visible()
    assert "at=" in page.url
    await page.get_by_text("Back to now").click()
    await expect(page.get_by_text("later")).to_be_visible()


async def test_sub_agents_go_back_to_the_same_moment(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(goal("1", "Ask a tester"))
    child = Run(server.url, "Test it", parent_trace_id=run.id, parent_goal_id="1")
    child.add(goal("c", "Run the tests"), said("one ran", tokens=5))
    await page.goto(run.url)
    await page.locator(".goal", has_text="Test it").locator("button.twist").click()
    inner = page.locator(".goal", has_text="Run the tests")
    await expect(inner.locator(".n")).to_have_text("1")
    await asyncio.sleep(0.01)  # times are told in milliseconds
    run.add(said("half-way"))
    await asyncio.sleep(0.01)
    child.add(said("two ran", tokens=7), {"event": "goal_updated", "goal_id": "c", "patch": {"status": "completed"}})
    child.add(goal("d", "Clean up"), completed())
    await asyncio.sleep(0.01)
    run.add(said("later"))
    sub, late = page.locator(".goal", has_text="Test it"), page.locator(".goal", has_text="Clean up")

    async def as_at_half_way() -> None:
        await expect(inner.locator(".n")).to_have_text("1")
        await expect(inner.locator(".mark.is-running")).to_have_count(1)
        await expect(late).to_have_count(0)
        await expect(sub.locator(".mark.is-running")).to_have_count(1)
        await expect(sub.locator(".n")).to_have_text("1")
        await expect(sub.locator(".c")).to_have_text("5")

    await expect(late).to_have_count(1)
    await expect(sub.locator(".mark.is-completed")).to_have_count(1)
    await page.goto(f"{run.url}?at=3")
    await expect(page.get_by_text("half-way")).to_be_visible()
    await sub.locator("button.twist").click()  # opened while going back
    await as_at_half_way()
    await page.locator(".said").focus()
    await page.keyboard.press("]")  # the child has ended
    await expect(sub.locator(".mark.is-completed")).to_have_count(1)
    await expect(inner.locator(".n")).to_have_text("2")
    await expect(late).to_have_count(1)
    await page.keyboard.press("[")
    await as_at_half_way()
    await sub.click()  # its messages, at that moment
    await expect(page.locator(".pastbar")).to_contain_text("after event 2")
    await expect(page.get_by_text("one ran")).to_be_visible()
    await expect(page.get_by_text("two ran")).to_have_count(0)
    await expect(page.locator(".facts .events")).to_have_text("2 events")  # the parent when the child said that
    await as_at_half_way()
    await page.locator("select[aria-label=Speed]").select_option("100")
    await page.get_by_label("Play").click()
    await expect(page.get_by_text("two ran")).to_be_visible()
    await expect(page.locator(".pastbar")).to_have_count(0)
    await expect(late).to_have_count(1)
    child.add(said("more after that"))
    await expect(sub.locator(".n")).to_have_text("3")  # live again


async def test_back_to_now_while_it_plays(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(*({**said(f"no {n}"), "occurred_at": f"2026-01-01T00:00:{n:02}Z"} for n in range(60)))
    await page.goto(f"{run.url}?at=1")
    await expect(page.locator(".pastbar")).to_contain_text("after event 1")
    await page.get_by_label("Play").click()
    await expect(page.get_by_label("Pause")).to_be_visible()
    await page.get_by_text("Back to now").click()
    await expect(page.locator(".pastbar")).to_have_count(0)
    await expect(page.get_by_label("Play")).to_be_visible()


async def test_replay_ends_at_now(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(goal("1", "First"), said("one"), said("two"), completed())
    await page.goto(f"{run.url}?at=1")
    await expect(page.locator(".pastbar")).to_contain_text("after event 1")
    await page.locator("select[aria-label=Speed]").select_option("100")
    await page.get_by_label("Play").click()
    await expect(page.get_by_text("two")).to_be_visible()
    await expect(page.locator(".pastbar")).to_have_count(0)


async def test_the_way_back_to_now_is_one_paint(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(goal("1", "First"), said("one"), said("two"))
    await page.goto(f"{run.url}?at=2")
    await expect(page.locator(".pastbar")).to_contain_text("after event 2")
    await expect(page.get_by_text("two")).to_have_count(0)
    # What is there at the very moment the bar goes, before any effect after painting
    there = await page.evaluate(
        """() => new Promise(resolve => {
        new MutationObserver(() => document.querySelector('.pastbar') || resolve([
            document.querySelectorAll('details.export').length, document.querySelectorAll('.row.text').length,
        ])).observe(document.body, {childList: true, subtree: true});
        const press = () => {  // again until the page listens to keys
            if (!document.querySelector('.pastbar')) return;
            document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '.', bubbles: true}));
            setTimeout(press, 200);
        };
        press();
        })"""
    )
    assert there == [1, 2]  # it can be exported, and both messages are there


async def test_an_open_inspector_asks_for_its_event_once(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("It is", message_id="streamed", status="streaming"))
    await page.goto(run.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/events?" in request.url else None)
    await page.locator(".row .at").click()
    await expect(page.locator(".inspector")).to_contain_text("message_added")
    for n in range(1, 6):
        run.add({"event": "message_updated", "message_id": "streamed", "append": f" piece {n}"})
        await expect(page.locator(".inspector")).to_contain_text(f"then updated {n} time")
    assert len(asked) == 1


async def test_the_inspector_shows_the_stored_event(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("inspect me", message_id="it"))
    await page.goto(f"{run.url}?message=it")
    await page.locator(".row.hit .at").click()
    await expect(page.locator(".inspector")).to_contain_text("Event 1")
    await expect(page.locator(".inspector")).to_contain_text("message_added")
    await page.keyboard.press("Escape")
    await expect(page.locator(".inspector")).to_have_count(0)


async def test_an_export_opens_offline_and_asks_nobody(server: ServerProcess, page: Page, exported: Path) -> None:
    run = Run(server.url, "Export </script><script>alert(1)</script> me")
    run.add(goal("1", "First"), said("an <!-- odd --> **text** </script>"))
    child = Run(server.url, "Help", parent_trace_id=run.id, parent_goal_id="1")
    child.add(said("helped"))
    await page.goto(run.url)
    await page.locator(".export summary").click()
    async with page.expect_download() as download:
        await page.get_by_text("One HTML file").click()
    await (await download.value).save_as(exported)
    await page.goto(exported.as_uri())
    await expect(page.get_by_text("an <!-- odd --> text </script>")).to_be_visible()
    await expect(page.locator(".pill")).to_have_text("saved in this file")
    await page.locator(".goal", has_text="Help").click()
    await expect(page.get_by_text("helped")).to_be_visible()
    assert await page.evaluate("performance.getEntriesByType('resource').length") == 0


EVIL = (
    "<img src=x onerror=alert(1)><script>alert(2)</script> ![i](http://evil.example/x.png) "
    "[l](javascript:alert(3)) \x1b[31mred\x1b[0m \u202etxt.exe \u200bz **b** <iframe src=http://evil.example></iframe>"
)


async def test_what_agents_say_does_nothing_but_show(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, EVIL, agent_type=EVIL[:100])
    run.add(goal("1", EVIL, reason=EVIL), said(EVIL), said("x", role=EVIL[:60], content={EVIL: EVIL}))
    run.add(call("t", arguments={EVIL: EVIL}, error=EVIL), {"event": "thought", "text": EVIL}, completed(error=EVIL))
    await page.goto(run.url)
    await expect(page.locator(".prose strong")).to_have_text("b")
    for line in await page.locator(".line").all():
        await line.click()
    await page.locator(".goal").click()
    await expect(page.locator(".details")).to_contain_text("<script>alert(2)</script>")
    assert await page.locator("img, iframe, .prose script, a[href^='javascript']").count() == 0
    await expect(page.locator("h1")).to_contain_text("‹U+202E›")


async def test_a_run_that_is_not_there(server: ServerProcess, page: Page) -> None:
    await page.goto(f"{server.url}/traces/none")
    await expect(page.locator("h1")).to_have_text("There is no such run")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone(server: ServerProcess, page: Page, scheme: str) -> None:
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": 360, "height": 740})
    run = Run(server.url, "A task with many words " * 5)
    run.add(goal("1", "A goal " * 20), said("word " * 200 + "x" * 300), call("t", arguments={"long": "y" * 500}))
    await page.goto(run.url)
    await expect(page.get_by_text("x" * 300)).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await expect(page.get_by_role("button", name="Cancel")).to_be_in_viewport()
    await page.get_by_text("Goals").first.click()
    await expect(page.locator(".goal")).to_be_in_viewport()
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(18, 19, 21)") is (scheme == "dark")
