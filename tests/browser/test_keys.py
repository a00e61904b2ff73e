"""The whole job without a mouse."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, call, goal, said, update
from tests.browser.test_questions import asked
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_from_the_list_to_a_cancelled_run_by_keys_only(server: ServerProcess, page: Page) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    Run(server.url, "Another run")
    run = Run(server.url, "The run in question")
    run.add(goal("1", "Look"), said("needle one"), call("bad"), goal("2", "Ask"), said("needle two"))
    run.add(update("bad", content={"tool_name": "grep", "error": "broken"}, status="complete"))
    run.add(asked("Go on?", options=["yes", "no"]), said("waiting"))
    press = page.keyboard.press
    await page.goto(server.url)
    # Filter, open
    await expect(page.locator(".tbody .tr")).to_have_count(2)
    await press("/")
    await page.keyboard.type("in question")
    await expect(page.locator(".tbody .tr")).to_have_count(1)
    await press("Enter")
    await press("Enter")
    await expect(page.locator("h1")).to_have_text("The run in question")
    # The tree
    await expect(page.locator(".goal")).to_have_count(2)
    await press("h")
    await press("End")
    await expect(page.locator(".goal.focused")).to_contain_text("Ask")
    await press("ArrowUp")
    await press("Enter")
    await expect(page.get_by_text("needle two")).to_have_count(0)
    await press("Escape")
    await expect(page.get_by_text("needle two")).to_be_visible()
    # Only some messages
    await press("3")
    await expect(page.locator(".row.text")).to_have_count(0)
    await press("1")
    # Search, there and back
    await press("/")
    await page.keyboard.type("needle")
    await expect(page.locator(".row.hit")).to_contain_text("needle one")
    await press("Enter")
    await expect(page.locator(".row.hit")).to_contain_text("needle two")
    await press("Shift+Enter")
    await expect(page.locator(".row.hit")).to_contain_text("needle one")
    await press("Escape")
    # An error, the question, its answer
    await press("e")
    await expect(page.locator(".row.hit")).to_contain_text("broken")
    await press("q")
    await expect(page.locator(".row.hit")).to_contain_text("Go on?")
    await press("a")
    await expect(page.get_by_role("button", name="yes")).to_be_focused()
    await press("Enter")
    await expect(page.locator(".asked")).to_contain_text("yes by viewer")
    # The event behind it, a link to it
    await press("i")
    await expect(page.locator(".inspector")).to_contain_text("input_requested")
    await press("y")
    await expect(page.locator(".toast")).to_contain_text("Copied a link")
    link = await page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(re.escape(run.url) + r"\?event=\d+", link)
    await press("Escape")
    # Back in time, and to now
    await press("[")
    await press("[")
    await expect(page.locator(".pastbar")).to_contain_text("after event")
    await press(".")
    await expect(page.locator(".pastbar")).to_have_count(0)
    # Saved to a file
    await press("s")
    await expect(page.get_by_role("button", name="One HTML file")).to_be_focused()
    async with page.expect_download() as download:
        await press("Enter")
    assert (await download.value).suggested_filename == f"{run.id}.html"
    # Help names the keys; the run is cancelled
    await press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Answer the question")
    await press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await press("x")
    await expect(page.get_by_label("Why")).to_be_focused()
    await page.keyboard.type("enough")
    await press("Enter")
    await expect(page.locator(".stopping")).to_be_visible()
    await page.goto(link)
    await expect(page.locator(".row.hit")).to_contain_text("Go on?")


async def test_what_is_focused_is_seen_and_enter_presses_it(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "Focus")
    run.add(goal("1", "Look"), said("hello"))
    for address in (server.url, run.url):
        await page.goto(address)
        await expect(page.get_by_text("Look").first).to_be_visible()
        unseen = []
        for _ in range(30):
            await page.keyboard.press("Tab")
            unseen += await page.evaluate(
                """() => { const at = document.activeElement, style = getComputedStyle(at);
                const shown = [at, ...at.querySelectorAll('.focused')].some((one) => {
                  const look = getComputedStyle(one);
                  return (look.outlineStyle !== 'none' && look.outlineWidth !== '0px') || look.boxShadow !== 'none' });
                return at === document.body || shown ? [] : [at.outerHTML.slice(0, 120)] }"""
            )
        assert unseen == []
    await page.get_by_role("button", name="Help").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


async def test_in_a_tall_window_the_last_match_is_gone_to(server: ServerProcess, page: Page) -> None:
    # Where it would stand in the middle, the list can't be scrolled to: drawing it must end all the same
    await page.set_viewport_size({"width": 1280, "height": 2400})
    run = Run(server.url)
    run.add(*(said(f"Message {n}") for n in range(100)), said("the last"))
    await page.goto(f"{run.url}?event=101")
    await expect(page.locator(".row.hit")).to_contain_text("the last")
    await page.keyboard.press("g")
    await expect(page.get_by_text("Message 0")).to_be_in_viewport()
