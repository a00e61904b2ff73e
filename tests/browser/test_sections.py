"""Sections of goals: each holds what belongs to it, live as in the past; a sub-agent is one row."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, completed, goal, said
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SECTIONS = """() => [...document.querySelectorAll('.said .goalhead, .said .row')].map(one =>
  one.matches('.goalhead') ? '# ' + one.textContent
  : one.querySelector('.body, .call').innerText.replace(/\\s+/g, ' '))"""


async def test_a_section_holds_what_belongs_to_its_goal(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "Ship it")
    run.add(said("before any goal"), goal("1", "Find the cause"), said("looking"))
    run.add(goal("2", "Fix it", status="pending"))
    run.add({"event": "input_requested", "question": "Deploy?", "request_id": "q", "goal_id": "2"})
    child = Run(server.url, "Test it", parent_trace_id=run.id, parent_goal_id="1", agent_type="tester")
    other = Run(server.url, "Write it down", parent_trace_id=run.id, parent_goal_id="1", agent_type="writer")
    run.add(said("by the way", goal_id=None))
    other.add(said("x", cost=0.25), completed(summary="Two pages."))
    await page.goto(run.url)
    sections = [
        "before any goal",
        *("# Find the cause", "looking"),
        *("# Fix it", "Deploy? waits for an answer"),
        *("# Find the cause", "tester Test it", "writer Write it down Two pages."),
        *("# Outside of the goals", "by the way"),
    ]
    await expect(page.get_by_text("Two pages.")).to_be_visible()
    assert await page.evaluate(SECTIONS) == sections
    writer = page.locator(".row", has_text="Write it down")
    await expect(writer.get_by_role("img")).to_have_accessible_name("completed")
    await expect(writer.locator(".meta")).to_contain_text("$0.25")
    tester = page.locator(".row", has_text="Test it")
    await expect(tester.get_by_role("img")).to_have_accessible_name("running")
    child.add(completed("failed", error={"type": "TypeError", "message": "* wants int"}))
    await expect(tester).to_contain_text("TypeError: * wants int")
    await expect(tester).to_have_class(re.compile("error"))
    await expect(page.locator(".goal", has_text="Find the cause").locator(".trouble")).to_have_text("✕ 1")
    # As it was before either had ended
    at = int(await page.locator(".row", has_text="by the way").get_attribute("data-event") or 0)
    await page.goto(f"{run.url}?at={at}")
    await expect(tester).not_to_contain_text("TypeError")
    sections[7] = "writer Write it down"
    assert await page.evaluate(SECTIONS) == sections
    await expect(tester.get_by_role("img")).to_have_accessible_name("running")
    # A goal that a run has left in progress says so
    run.add(completed("failed", error="gave up"))
    await page.goto(f"{run.url}?goal=1")
    left = page.locator(".goal", has_text="Find the cause")
    await expect(left.get_by_role("img").first).to_have_accessible_name(re.compile("^not finished"))
    await expect(page.locator(".details", has_text="Not finished")).to_be_visible()
