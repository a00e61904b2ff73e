"""Answering and cancelling from the page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import allow
from tests.browser.runs import Run, said
from tests.support import ServerProcess
from tracewatch.server.app import create_app

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(getattr(route, "path", "") == "/api/inputs" for route in create_app().routes),
        reason="this server has no control API yet",
    ),
]


def asked(question: str, **more: Any) -> dict[str, Any]:
    return {"event": "input_requested", "question": question, **more}


async def test_answered_with_a_button(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("All tests pass."), asked("Deploy?", options=["yes", "no"], expires_in_s=3600))
    await page.goto(run.url)
    question = page.locator(".question")
    await expect(question).to_contain_text("expires in 59:")
    await question.get_by_role("button", name="yes").click()
    await expect(question).to_have_count(0)
    await expect(page.locator(".asked")).to_contain_text("yes by viewer")
    await expect(page.locator(".facts .state")).to_contain_text("running")


async def test_answered_with_a_form_from_the_list(server: ServerProcess, page: Page) -> None:
    allow(page, "422")
    run = Run(server.url)
    properties = {"version": {"type": "string"}, "replicas": {"type": "integer", "minimum": 1}}
    schema = {"type": "object", "properties": properties, "required": ["version", "replicas"]}
    run.add(asked("Which version?", schema=schema))
    await page.goto(server.url)
    question = page.locator(".needs .question", has_text="Which version?")
    await expect(page).to_have_title(re.compile(r"^\("))
    await question.get_by_role("button", name="Answer…").click()
    await question.get_by_label("version").fill("1.4")
    await question.get_by_label("replicas").fill("0")
    await question.get_by_role("button", name="Answer").click()
    await expect(question.locator(".fault")).to_contain_text("minimum")
    await question.get_by_label("replicas").fill("3")
    await question.get_by_role("button", name="Answer").click()
    await expect(question).to_have_count(0)


async def test_what_somebody_else_answered(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(asked("Deploy?", options=["yes", "no"]))
    await page.goto(run.url)
    await expect(page.locator(".question")).to_be_visible()
    answered = await page.request.post(f"{server.url}/api/traces/{run.id}/inputs/r1", data={"value": "no", "by": "Ada"})
    assert answered.ok
    await expect(page.locator(".question")).to_have_count(0)
    await expect(page.locator(".asked")).to_contain_text("no by Ada")


async def test_cancelled_with_a_reason(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("Working."))
    await page.goto(run.url)
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_label("Why").fill("not today")
    await page.keyboard.press("Enter")
    await expect(page.locator(".stopping")).to_be_visible()
    await expect(page.get_by_text("not today")).to_be_visible()
    run.add({"event": "trace_completed", "status": "stopped"})
    await expect(page.locator(".facts .state")).to_contain_text("stopped")
