"""A session as foreign agents have it: steps, idle between turns, links, a question that only the terminal answers."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, goal, said
from tests.browser.test_questions import asked
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_steps_idle_links_and_a_question_of_the_terminal(server: ServerProcess, page: Page) -> None:
    first = Run(server.url, "First try")
    run = Run(server.url, "A session", links=[{"trace_id": first.id, "kind": "retry_of"}])
    run.add(goal("1", "Look"), goal("2", "Write"), said("in a step"))
    run.add(
        {"event": "step_added", "step": {"id": "a", "name": "agent", "kind": "node", "goal_id": "1"}},
        {"event": "step_added", "step": {"id": "b", "name": "guard", "step_id": "a", "error": "not allowed"}},
        {"event": "step_added", "step": {"id": "c", "name": "tools", "kind": "node", "goal_id": "2"}},
        {"event": "step_updated", "step_id": "c", "patch": {"status": "completed", "output": "done"}},
    )
    await page.goto(run.url)
    steps = page.locator("details.steps")
    await expect(steps.locator("summary")).to_have_text("3 steps · 1 failed · agent")
    await expect(steps.get_by_text("guard")).to_have_count(0)
    await steps.locator("summary").click()
    await expect(steps.locator("div")).to_have_count(3)
    await expect(steps.locator("div").nth(1)).to_contain_text("guard")
    await expect(page.get_by_text("→ retry_of")).to_have_attribute("href", f"/traces/{first.id}")
    await page.locator(".goal", has_text="Write").click()
    await expect(steps.locator("summary")).to_have_text("1 step")
    run.add(asked("Delete build/?", options=["yes", "no"], request_id="q", answerable="terminal"))
    await expect(page.get_by_text("Only the agent's own terminal can answer this.")).to_be_visible()
    await expect(page.get_by_role("button", name="yes", exact=True)).to_have_count(0)
    run.add(
        {"event": "input_provided", "request_id": "q", "value": "no", "by": "terminal"},
        {"event": "trace_status_changed", "status": "idle"},
    )
    await expect(page.locator(".facts .state")).to_contain_text("idle: its user's turn")
    await expect(page.get_by_text("Only the agent's own terminal can answer this.")).to_have_count(0)
