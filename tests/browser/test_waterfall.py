"""The waterfall: rows at their real place in time, zoom, folds, steps, one selection and one clock with the rest."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.runs import Event, Run, call, completed, goal, said, update
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def at(second: float, *events: Event) -> list[Event]:
    when = (START + timedelta(seconds=second)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [{**event, "occurred_at": when} for event in events]


def streamed(message_id: str, begin: float, first: float, end: float, **more: object) -> list[Event]:
    return [
        *at(begin, said("", message_id=message_id, **{"status": "streaming", "model": "m-1", **more})),
        *at(first, update(message_id, append="Some words")),
        *at(end, update(message_id, status="complete", tokens=1700, cost=0.012)),
    ]


def tool(message_id: str, begin: float, end: float, **content: object) -> list[Event]:
    return [*at(begin, call(message_id)), *at(end, update(message_id, status="complete", content=content))]


def a_run(url: str) -> Run:
    """100 s of work with a pause of an hour in it."""
    run = Run(url, "Where the time went")
    run.add(*at(0, goal("1", "Find the cause")), *streamed("m", 1, 5, 11))
    run.add(*at(12, {"event": "step_added", "step": {"id": "turn", "name": "turn 1", "kind": "turn"}}))
    run.add(*at(12, call("t")), *at(32, update("t", status="complete", content={"tool_name": "grep", "result": "x"})))
    run.add(*at(32, goal("2", "Below it", parent_id="1")), *tool("bad", 33, 50, tool_name="sh", error="no such file"))
    run.add(*at(50, {"event": "goal_updated", "goal_id": "2", "patch": {"status": "completed"}}))
    run.add(
        *at(3650, goal("3", "Ship it"), said("after the pause")),
        *tool("late", 3660, 3700, tool_name="deploy", result="done"),
    )
    return run


async def box(of: Locator) -> tuple[float, float]:
    """The left edge and the width of an element, px."""
    found = await of.bounding_box()
    assert found
    return found["x"], found["width"]


def row(page: Page, words: str) -> Locator:
    return page.locator(".fallrow", has_text=words).first


async def test_bars_stand_where_the_time_went(server: ServerProcess, page: Page) -> None:
    run = a_run(server.url)
    run.add(*at(3700, completed()))
    await page.goto(run.url)
    await expect(page.get_by_text("after the pause")).to_be_visible()
    await page.keyboard.press("w")
    assert "view=waterfall" in page.url
    rows = page.locator(".fallrow")
    await expect(rows).to_have_count(8)
    await expect(page.locator(".axis .gap")).to_contain_text("idle")  # then the axis has all of it
    first, second = await box(row(page, "grep").locator(".bar")), await box(row(page, "sh").locator(".bar"))
    assert first[1] / second[1] == pytest.approx(20 / 17, rel=0.1)
    assert second[0] > first[0] + first[1] - 1
    # 39 s before the first token of 10 s: four tenths of the bar
    model = await box(row(page, "m-1").locator(".bar"))
    assert (await box(row(page, "m-1").locator(".first")))[1] / model[1] == pytest.approx(0.4, abs=0.1)
    await expect(row(page, "m-1").locator(".columns")).to_contain_text("10.0 s")
    await expect(row(page, "m-1").locator(".tok")).to_have_text("1.7k")
    await expect(row(page, "sh").locator(".beside")).to_have_text("✕ no such file")
    await expect(row(page, "Find the cause").locator(".own")).to_have_text(
        "32.0 s"
    )  # without goal 2, in which it ended
    await expect(row(page, "Ship it").get_by_role("img")).to_have_accessible_name(re.compile("not finished"))
    await expect(page.locator(".axis .tick").first).to_have_text("0 s")
    await page.keyboard.press("w")
    await expect(page.locator(".said .row").first).to_be_visible()
    await page.go_back()
    await expect(rows.first).to_be_visible()


async def test_folds_and_steps(server: ServerProcess, page: Page) -> None:
    run = a_run(server.url)
    child = Run(server.url, "Test it", parent_trace_id=run.id, parent_goal_id="2", agent_type="tester")
    child.add(goal("c", "Run the tests"), call("in", arguments={"a": 1}), completed("failed", error="it broke"))
    await page.goto(f"{run.url}?view=waterfall")
    await expect(row(page, "Test it").locator(".beside")).to_have_text("✕ it broke")
    await row(page, "Test it").locator("button.twist").click()
    inner = row(page, "Run the tests")
    await expect(inner).to_have_attribute("aria-level", "4")
    steps = row(page, "Find the cause").get_by_role("button", name="1 step", include_hidden=True)
    await steps.click()
    await expect(row(page, "turn 1")).to_have_attribute("aria-level", "2")
    await row(page, "turn 1").click()
    await expect(page.locator(".inspector")).to_contain_text("step_added")
    await page.keyboard.press("Escape")
    await row(page, "Find the cause").locator("button.twist").click()
    await expect(inner).to_have_count(0)
    await page.wait_for_function("() => history.state?.kept?.tree?.folded.length")
    await page.reload()  # as it was left
    await expect(row(page, "Find the cause")).to_have_attribute("aria-expanded", "false")
    await page.keyboard.press("w")  # the tree has the same folds
    await expect(page.locator(".goal", has_text="Find the cause")).to_have_attribute("aria-expanded", "false")


async def test_one_selection(server: ServerProcess, page: Page) -> None:
    run = a_run(server.url)
    child = Run(server.url, "Test it", parent_trace_id=run.id, parent_goal_id="2", agent_type="tester")
    child.add(said("in the sub-agent"))
    await page.goto(run.url)
    await page.locator(".row", has_text="after the pause").locator(".at").click()
    await expect(page.locator(".inspector")).to_be_visible()
    await page.keyboard.press("w")
    await expect(page.locator(".fallrow.selected")).to_contain_text("after the pause")
    await expect(page.locator(".inspector")).to_be_visible()
    await row(page, "grep").click()
    await expect(page.locator(".fallrow.selected")).to_contain_text("grep")
    await expect(page.locator(".inspector h2")).to_have_text("Event 6")
    await page.keyboard.press("j")  # the goal below it, which is no event
    await page.keyboard.press("j")
    await expect(page.locator(".fallrow.selected")).not_to_contain_text("grep")
    await row(page, "grep").click()
    await page.keyboard.press("w")
    await expect(page.locator(".row.selected")).to_contain_text("grep")
    await page.keyboard.press("w")
    await row(page, "Test it").locator("button.twist").click()
    await row(page, "in the sub-agent").click()  # of another trace: its messages become the page's
    await expect(page.locator(".inspector h2")).to_have_text("Event 1")
    await expect(page.locator(".fallrow.selected")).to_contain_text("in the sub-agent")
    assert f"in={child.id}" in page.url


async def test_zoom_keeps_the_point_under_the_pointer(server: ServerProcess, page: Page) -> None:
    run = a_run(server.url)
    run.add(*at(3700, completed()))
    await page.goto(f"{run.url}?view=waterfall")
    bar = row(page, "grep").locator(".bar")
    left, width = await box(bar)
    lane = await page.locator(".axis").bounding_box()
    assert lane
    await page.mouse.move(left, lane["y"] + 10)
    await page.mouse.wheel(0, -300)
    await expect(page.get_by_role("button", name="All of it")).to_be_visible()
    after = await box(bar)
    assert after[0] == pytest.approx(left, abs=3)
    assert after[1] > width * 1.5
    await page.keyboard.press("0")
    await expect(page.get_by_role("button", name="All of it")).to_have_count(0)
    # A span that is dragged fills the lanes; nothing was clicked
    y = (await row(page, "sh").bounding_box() or {"y": 0})["y"] + 10
    await page.mouse.move(left, y)
    await page.mouse.down()
    await page.mouse.move(left + width / 2, y)
    await page.mouse.move(left + width, y)
    await page.mouse.up()
    await expect(page.get_by_role("button", name="All of it")).to_be_visible()
    assert (await box(bar))[1] == pytest.approx(lane["width"], rel=0.1)
    await expect(page.locator(".inspector")).to_have_count(0)


async def test_what_runs_grows_while_a_question_waits(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "Ask before it deploys")
    run.add(goal("1", "Deploy"), call("t", arguments={}), update("t", status="complete"))
    run.add({"event": "input_requested", "question": "Deploy?", "request_id": "q", "options": ["yes", "no"]})
    await page.goto(f"{run.url}?view=waterfall")
    bar = row(page, "Deploy?").locator(".bar")
    await expect(bar).to_have_class(re.compile("is-waiting"))
    shown = "() => [...document.querySelectorAll('.bar.is-waiting, .bar.is-in_progress')].map(one => one.offsetWidth)"
    await expect(row(page, "grep").locator(".bar")).to_have_attribute("style", re.compile(r"left: 0(\.\d*)?%"))
    before = await page.evaluate(shown)
    stands = await row(page, "grep").locator(".bar").evaluate("bar => bar.style.left")
    await page.wait_for_function(f"before => ({shown})().every((width, i) => width > before[i] + 3)", arg=before)
    assert await row(page, "grep").locator(".bar").evaluate("bar => bar.style.left") == stands
    await page.get_by_role("button", name="yes").click()
    await expect(row(page, "Deploy?").locator(".beside")).to_have_text("yes")


async def test_one_clock(server: ServerProcess, page: Page) -> None:
    run = a_run(server.url)
    run.add(*at(3700, completed()))
    await page.goto(f"{run.url}?view=waterfall")
    bar = await row(page, "grep").locator(".bar").bounding_box()
    head = await page.locator(".playhead .head").bounding_box()
    assert bar and head
    await page.mouse.move(head["x"] + 4, head["y"] + 5)
    await page.mouse.down()
    await page.mouse.move(head["x"] - 30, head["y"] + 5)
    await page.mouse.move(bar["x"] + bar["width"] / 2, head["y"] + 5)
    await page.mouse.up()
    await expect(page.locator(".pastbar")).to_contain_text("after event 6")
    await expect(page.get_by_label("After which event")).to_have_attribute("aria-valuetext", "event 6 of 16")
    await page.keyboard.press("w")
    await expect(page.locator(".said .row").last).to_contain_text("grep")  # what had just happened, and still ran
    await expect(page.locator(".row.tool .is-running")).to_be_visible()
    # The playhead of the overview below is dragged on the canvas, and takes the transcript with it
    fall = await page.locator("canvas.fall").bounding_box()
    assert fall
    await page.mouse.move(fall["x"] + 100, fall["y"] + 20)
    await page.mouse.down()
    await page.mouse.move(fall["x"] + fall["width"] * 0.5, fall["y"] + 20)
    await page.mouse.move(fall["x"] + fall["width"] - 60, fall["y"] + 20)
    await page.mouse.up()
    await expect(page.locator(".said .row").last).to_have_attribute("data-event", "14")
    await expect(page.locator(".row.tool .is-running")).to_be_visible()
    slider = page.get_by_label("After which event")
    await slider.press("End")
    await expect(page.locator(".pastbar")).to_have_count(0)
