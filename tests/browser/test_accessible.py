"""Accessibility: all of axe's rules over every view in light and dark, and checks that axe does not make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Error, Page, expect

from tests.browser.runs import Run, call, completed, goal, said, update
from tests.browser.test_questions import SCHEMA, asked
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
RUN = """async () => {
  // AAA asks for contrasts of 7:1, which leaves no room for what is less important
  const rules = {};
  for (const { ruleId, tags } of axe.getRules()) rules[ruleId] = { enabled: !tags.includes('wcag2aaa') };
  const { violations } = await axe.run(document, { rules, resultTypes: ['violations'] });
  return violations.flatMap(({ id, help, nodes }) => nodes.map(({ html, any, all, none }) =>
    `${id}: ${help}: ${html.slice(0, 160)}: ${[...any, ...all, ...none].map((one) => one.message).join('; ')}`));
}"""


class Axe:
    """Collects what axe finds, view by view."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.found: list[str] = []

    async def look(self, view: str) -> None:
        if not await self._page.evaluate("typeof axe === 'object'"):
            await self._page.evaluate(AXE.read_text(encoding="utf-8"))
        self.found += [f"{view}: {fault}" for fault in await self._page.evaluate(RUN)]


def a_run(url: str) -> Run:
    """One of everything."""
    run = Run(url, "A run with one of everything")
    run.add(goal("1", "The first goal", reason="It is first"), goal("2", "One below", parent_id="1", status="pending"))
    run.add(goal("3", "Given up", parent_id="1", status="abandoned"))
    child = Run(url, "Help with it", parent_trace_id=run.id, parent_goal_id="1", agent_type="helper")
    child.add(said("helping"), completed("failed", error="could not"))
    run.add(said("Please do", role="user"), said("**Yes**: `code`, [a link](https://example.com)\n\n> quoted\n\n- one"))
    run.add(call("a", arguments={"a": {"b": [1, None, True, "x"]}}), call("b", arguments={"cmd": "ls"}), call("c"))
    run.add(update("a", content={"tool_name": "grep", "arguments": {"a": 1}, "result": {"n": 3}}, status="complete"))
    run.add(update("b", content={"tool_name": "sh", "error": "no such file"}, status="complete", duration_ms=12))
    run.add(said("streaming", message_id="s", status="streaming", model="m", tokens=12, cost=0.1))
    run.add({"event": "thought", "text": "hm"}, asked("Go on?", options=["yes", "no"]))
    run.add(asked("How?", schema=SCHEMA, expires_in_s=3600), asked("Why?"))
    return run


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(server: ServerProcess, page: Page, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: python web/node.py build")
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    axe = Axe(page)
    await page.goto(server.url)
    if scheme == "light":
        await expect(page.locator("h1")).to_have_text("No traces yet")
        await axe.look("empty")
    run = a_run(server.url)
    lost = Run(server.url, "One that failed")
    lost.add(completed("failed", error="it broke"))
    await expect(page.locator(".needs .question").first).to_be_visible()
    await page.locator(".needs").get_by_role("button", name="Answer…").first.click()
    await page.keyboard.press("j")
    await axe.look("list")
    await page.goto(run.url)
    await expect(page.locator(".prose strong")).to_be_visible()
    for line in await page.locator(".line").all():
        await line.click()
    await page.locator(".goal").first.click()
    await page.get_by_role("button", name="Answer", exact=True).first.click()
    await axe.look("trace")
    await page.locator(".row .at").first.click()
    await expect(page.locator(".inspector .block")).to_be_visible()
    await axe.look("inspector")
    await page.keyboard.press("Escape")
    await page.locator(".export summary").click()
    await axe.look("menu")
    await page.locator(".export summary").click()
    await page.keyboard.press("x")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await axe.look("cancel")
    await page.keyboard.press("Escape")
    await page.locator("body").press("?")
    await axe.look("help")
    await page.keyboard.press("Escape")
    await page.goto(f"{run.url}?at=9")
    await expect(page.locator(".pastbar b")).to_be_visible()
    await axe.look("past")
    await page.goto(f"{run.url}?view=waterfall")
    await expect(page.locator(".fallrow .bar").first).to_be_visible()
    await page.keyboard.press("j")
    await axe.look("waterfall")
    await page.goto(f"{server.url}/traces/none")
    await expect(page.locator("h1")).to_have_text("There is no such run")
    await axe.look("gone")
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{run.url}?view=waterfall")
    await expect(page.locator(".fallrow .bar").first).to_be_visible()
    await axe.look("waterfall on a phone")
    await page.goto(run.url)
    await expect(page.locator(".row").first).to_be_visible()
    await axe.look("phone")
    await page.get_by_role("button", name="Goals").click()
    await axe.look("drawer")
    await page.goto(server.url)
    await expect(page.locator(".tbody .tr").first).to_be_visible()
    await axe.look("phone list")
    assert not axe.found, "\n".join(axe.found)


SIDEWAYS = """() => {
  const wide = innerWidth, clipped = (one) => { for (let at = one.parentElement; at; at = at.parentElement)
    if (getComputedStyle(at).overflowX !== 'visible') return true; return false };
  if (document.documentElement.scrollWidth > wide) return ['the page'];
  return [...document.querySelectorAll('body *')].filter((one) => {
    const { left, right, width } = one.getBoundingClientRect();
    return width && (right > wide + 1 || left < -1) && !clipped(one) }).map((one) => one.outerHTML.slice(0, 120)) }"""


async def fits(page: Page) -> None:
    """Nothing is wider than the page, once it has been laid out."""
    try:
        await page.wait_for_function(f"!({SIDEWAYS})().length")
    except Error as error:
        raise AssertionError(await page.evaluate(SIDEWAYS)) from error


@pytest.mark.parametrize("size", [(360, 740), (320, 568), (640, 400)], ids=["phone", "small phone", "zoomed twice"])
async def test_nothing_sticks_out(server: ServerProcess, page: Page, size: tuple[int, int]) -> None:
    await page.set_viewport_size({"width": size[0], "height": size[1]})
    run = a_run(server.url)
    run.add(goal("long", "x" * 300), said("y" * 300), call("z" * 100, arguments={"k" * 200: "v" * 2000}))
    await page.goto(server.url)
    await expect(page.locator(".tbody .tr").first).to_be_visible()
    await fits(page)
    await page.wait_for_function("document.querySelector('.tbody').clientHeight >= 90")
    await page.goto(run.url)
    await expect(page.locator(".question form").first).to_be_visible()
    await fits(page)
    await page.wait_for_function("document.querySelector('.said').clientHeight >= 60")
    await page.locator(".row .at:visible").first.click()
    await expect(page.locator(".inspector .block")).to_be_visible()
    await fits(page)
    await page.keyboard.press("Escape")
    await expect(page.locator(".inspector .block")).to_have_count(0)
    for key in ("x", "?"):
        await page.keyboard.press(key)
        await expect(page.get_by_role("dialog")).to_be_visible()
        await fits(page)
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_times_are_those_of_the_reader(server: ServerProcess, browser: Browser) -> None:
    run = Run(server.url)
    run.add(said("hello", created="x"))
    context = await browser.new_context(timezone_id="Asia/Kolkata")
    try:
        page = await context.new_page()
        await page.goto(run.url)
        at = page.locator(".row .at")
        title = await at.get_attribute("title") or ""
        found = re.search(r"(\d\d):(\d\d):(\d\d)\.\d{3}Z", title)
        assert found, title  # as the log has it
        minutes = int(found[1]) * 60 + int(found[2]) + 330
        await expect(at).to_have_text(f"{minutes // 60 % 24:02}:{minutes % 60:02}:{found[3]}")
    finally:
        await context.close()


async def test_what_is_said_to_screen_readers_is_little(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "Speak")
    await page.goto(run.url)
    await expect(page.locator(".pill")).to_contain_text("live")
    await page.evaluate(
        """() => { window.said = []; new MutationObserver((changes) => changes.forEach(({ target }) => {
          const live = (target.closest ? target : target.parentElement)?.closest('[aria-live], [role=status]');
          if (live) said.push(live.textContent) })).observe(document.body,
            { subtree: true, childList: true, characterData: true }) }"""
    )
    run.add(*(said(f"Message {n}") for n in range(30)))
    await expect(page.get_by_text("Message 29")).to_be_visible()
    run.add(asked("Go on?", options=["yes"]))
    await expect(page.locator(".question")).to_be_visible()
    run.add(completed("failed", error="it broke"))
    await expect(page.locator(".failure")).to_be_visible()
    await expect(page.locator(".unseen[aria-live]")).to_have_text("The run is now failed")
    await page.wait_for_function("said.some((words) => words.includes('failed'))")  # after it is painted
    spoken = await page.evaluate("said")
    assert [*dict.fromkeys(spoken)] == ["Question: Go on?", "The run is now failed"]
