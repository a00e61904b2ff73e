"""Questions as forms: nested, checked at the field, kept when somebody else was quicker."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import allow
from tests.browser.runs import Run
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MAIL = {"title": "By mail", "type": "string", "minLength": 3}
STEP = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "s": {"type": "number"}}}
SCHEMA = {
    "type": "object",
    "required": ["version", "replicas", "where"],
    "properties": {
        "version": {"type": "string", "pattern": "^\\d"},
        "replicas": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many"},
        "canary": {"type": "boolean", "title": "Canary first"},
        "where": {
            "type": "object",
            "required": ["region"],
            "properties": {
                "region": {"enum": ["eu", "us"]},
                "zones": {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b"]}},
            },
        },
        "steps": {"type": "array", "items": STEP},
        "notify": {"oneOf": [{"title": "Nobody", "const": None}, MAIL]},
    },
}


def asked(question: str, **more: Any) -> dict[str, Any]:
    return {"event": "input_requested", "question": question, **more}


async def answer_elsewhere(page: Page, url: str, run: Run, request_id: str, value: Any, by: str) -> None:
    answered = await page.request.post(
        f"{url}/api/traces/{run.id}/inputs/{request_id}", data={"value": value, "by": by}
    )
    assert answered.ok


async def test_a_nested_schema_is_a_form(server: ServerProcess, page: Page) -> None:
    allow(page, "422")
    run = Run(server.url)
    run.add(asked("How to deploy?", request_id="how", schema=SCHEMA))
    await page.goto(run.url)
    form = page.locator(".question form")
    await expect(form.get_by_text("How many · 1 to 9")).to_be_visible()
    await form.get_by_role("button", name="Answer", exact=True).click()
    # What can be seen here is said here, and the first fault has the keyboard
    await expect(form.locator(".field", has_text="replicas").locator(".fault")).to_have_text("is needed")
    await form.get_by_label("version").fill("v1")
    await form.get_by_label("replicas").fill("12")
    await form.get_by_label("Canary first").check()
    await form.get_by_label("region").select_option("eu")
    await form.get_by_label("b", exact=True).check()
    await form.get_by_role("button", name="+ Add").click()
    await form.get_by_role("textbox", name="name", exact=True).fill("warm up")
    await form.get_by_label("s", exact=True).fill("1.5")
    await form.get_by_role("button", name="By mail").click()
    await form.get_by_label("By mail").fill("ops@example.com")
    await form.get_by_role("button", name="Answer", exact=True).click()
    # What the server says of a path stands at its field
    await expect(form.locator(".field", has_text="replicas").locator(".fault")).to_contain_text("12 is greater than")
    await expect(form.locator(".field", has_text="version").locator(".fault")).to_contain_text("does not match")
    await expect(form.get_by_label("version")).to_be_focused()
    await form.get_by_label("version").fill("1")
    await form.get_by_label("replicas").fill("3")
    await form.get_by_label("Your name").fill("Ada")
    await form.get_by_label("Your name").press("Enter")
    await expect(page.locator(".question")).to_have_count(0)
    await expect(page.locator(".asked")).to_contain_text("by Ada")
    found = await (await page.request.get(f"{server.url}/api/traces/{run.id}/inputs/how")).json()
    assert (found["by"], found["value"]) == (
        "Ada",
        {
            "version": "1",
            "replicas": 3,
            "canary": True,
            "where": {"region": "eu", "zones": ["b"]},
            "steps": [{"name": "warm up", "s": 1.5}],
            "notify": "ops@example.com",
        },
    )


async def test_what_can_be_no_form_is_json(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(asked("Anything?", schema={"type": "object", "minProperties": 1}))
    await page.goto(run.url)
    field = page.locator(".question textarea")
    await field.fill("{oops")
    await page.get_by_role("button", name="Answer", exact=True).click()
    await expect(page.locator(".question .fault")).to_contain_text("is no JSON")
    await field.fill('{"a": [1]}')
    await field.press("Control+Enter")
    await expect(page.locator(".asked")).to_contain_text("a: [1]")


async def test_my_text_stays_when_somebody_else_was_quicker(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(asked("Why?", request_id="why"), asked("And where?", request_id="where", options=["here", "there"]))
    await page.goto(run.url)
    await expect(page.locator(".question")).to_have_count(2)
    mine = page.locator(".question", has_text="Why?")
    await mine.locator("textarea").fill("because of the")
    await answer_elsewhere(page, server.url, run, "why", "no reason", "Grace")
    await expect(mine).to_contain_text("Grace has answered: no reason")
    await expect(mine.locator("textarea")).to_have_value("because of the")
    await expect(mine.get_by_role("button", name="Answer", exact=True)).to_have_count(0)
    await mine.get_by_role("button", name="Dismiss").click()
    await expect(mine).to_have_count(0)
    await page.get_by_role("button", name="there").click()
    await expect(page.locator(".question")).to_have_count(0)


async def test_the_list_keeps_my_text_too(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "Something with a question")
    run.add(asked("Who asks?", request_id="who"))
    await page.goto(server.url)
    mine = page.locator(".needs .question", has_text="Who asks?")
    await mine.locator("textarea").fill("it is me")
    await answer_elsewhere(page, server.url, run, "who", "you", "Grace")
    await expect(mine).to_contain_text("Grace has answered: you")
    await expect(mine.locator("textarea")).to_have_value("it is me")
