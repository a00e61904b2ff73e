"""A server that asks for a token: the page asks the user, keeps the token in its tab, and says why one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import allow
from tests.browser.runs import said
from tests.browser.test_questions import asked
from tests.support import Serving, serving
from tracewatch.log import EventLog, open_log
from tracewatch.log.tokens import token_id_of
from tracewatch.model.events import validate_trace

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Guarded:
    """A server with tokens, and a run in it that asks something."""

    def __init__(self, log: EventLog, served: Serving, token: str) -> None:
        self.log, self.url, self.token = log, served.url, token

    async def revoke(self) -> None:
        await self.log.tokens.revoke(token_id_of(self.token) or "")


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    log = await open_log(str(tmp_path / "log.db"))
    try:
        token = await log.tokens.create(["read"])
        await log.create_trace(validate_trace({"trace_id": "run", "task": "A guarded run"}))
        await log.append("run", [said("a secret"), asked("Go on?", options=["yes"])])
        async with serving(tmp_path / "log.db") as served:
            yield Guarded(log, served, token)
    finally:
        await log.close()


async def test_the_page_asks_for_a_token_and_goes_on_with_it(guarded: Guarded, page: Page) -> None:
    allow(page, "401", "403", "WebSocket connection to")
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{guarded.url}/traces/run")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("tracewatch token create --scope read --scope control")
    await expect(page.get_by_label("Token", exact=True)).to_be_focused()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    # By keys only: put aside, taken up again, a word that is none, one that the server does not know, the right one
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await page.get_by_role("button", name="give one").focus()
    await page.keyboard.press("Enter")
    await page.keyboard.type("no token")
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".fault")).to_contain_text("That is no token")
    await page.get_by_label("Token", exact=True).fill("tw_0123456789ab_" + "0" * 40)
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".fault")).to_contain_text("The server does not take it")
    await page.get_by_label("Token", exact=True).fill(guarded.token)
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("a secret")).to_be_visible()
    await expect(page.locator(".pill")).to_contain_text("live")
    # It may read only: what it may not do is said where it was tried
    await page.get_by_role("button", name="yes").click()
    await expect(page.locator(".question .fault")).to_contain_text("scope control")
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await expect(page.get_by_label("Why")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".fault")).to_contain_text("scope control")
    await page.keyboard.press("Escape")
    # It stays in this tab, in no address and in no other storage
    await page.reload()
    await expect(page.get_by_text("a secret")).to_be_visible()
    assert not any(guarded.token in url for url in [*asked_for, page.url])
    assert guarded.token not in await page.evaluate("JSON.stringify(localStorage)")
    # A tab without it sees nothing
    await page.get_by_role("button", name="This tab's token").click()
    await dialog.get_by_role("button", name="Forget token").click()
    await expect(dialog).to_contain_text("This server wants a token")
    await expect(page.get_by_text("a secret")).to_have_count(0)


async def test_what_is_typed_at_once_goes_into_the_dialog(guarded: Guarded, page: Page) -> None:
    """And not to the page's keys, of which t leaves it."""
    allow(page, "401", "WebSocket connection to")
    await page.goto(f"{guarded.url}/traces/run")
    await page.get_by_role("button", name="Not now").click()
    open_it = """button => {
        button.click();
        return new Promise(done => setTimeout(() => done(document.activeElement.tagName)));
    }"""
    assert await page.get_by_role("button", name="give one").evaluate(open_it) == "INPUT"


async def test_a_token_revoked_while_the_page_is_open(guarded: Guarded, page: Page) -> None:
    allow(page, "401", "WebSocket connection to")
    await page.add_init_script(f"sessionStorage.setItem('tracewatch.token', '{guarded.token}')")
    await page.goto(f"{guarded.url}/traces/run")
    await expect(page.get_by_text("a secret")).to_be_visible()
    await guarded.revoke()
    await expect(page.get_by_role("dialog")).to_contain_text("revoked")
    other = await guarded.log.tokens.create(["read", "control"])
    await page.get_by_label("Token", exact=True).fill(other)
    await page.keyboard.press("Enter")
    await expect(page.locator(".pill")).to_contain_text("live")
    await page.get_by_role("button", name="yes").click()
    await expect(page.locator(".asked")).to_contain_text("yes by viewer")


async def test_too_many_wrong_tokens(guarded: Guarded, page: Page) -> None:
    allow(page, "401", "429", "WebSocket connection to")
    wrong = {"Authorization": "Bearer tw_0123456789ab_" + "0" * 40}
    await page.goto(guarded.url)
    field = page.get_by_label("Token", exact=True)
    await expect(field).to_be_focused()
    answers = await asyncio.gather(*(page.request.get(f"{guarded.url}/api/traces", headers=wrong) for _ in range(40)))
    assert any(answer.status == 429 for answer in answers)
    await field.fill("tw_0123456789ab_" + "1" * 40)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("It can be tried again in")
    await expect(page.get_by_role("button", name="Use it")).to_be_disabled()


async def test_a_new_tab_is_not_asked_again_and_all_forget_at_once(guarded: Guarded, page: Page) -> None:
    allow(page, "401", "WebSocket connection to")
    await page.goto(f"{guarded.url}/traces/run")
    await page.get_by_label("Token", exact=True).fill(guarded.token)
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("a secret")).to_be_visible()
    other = await page.context.new_page()
    await other.goto(f"{guarded.url}/traces/run")
    await expect(other.get_by_text("a secret")).to_be_visible()
    await expect(other.get_by_role("dialog")).to_have_count(0)
    await other.get_by_role("button", name="This tab's token").click()
    await other.get_by_role("button", name="Forget token").click()
    for tab in (other, page):
        await expect(tab.get_by_role("dialog")).to_contain_text("This server wants a token")
        await expect(tab.get_by_text("a secret")).to_have_count(0)
