"""Rows: diffs and code in colours, errors as a line, snippets of what a search found, kinds of events, branches."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Event, Run, call, completed, goal, said, update
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DIFF = "--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n def f():\n-    return None\n+    return 1\n"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    g()\nTypeError: * wants int'


def returned(message_id: str, name: str, arguments: object, **output: object) -> list[Event]:
    content = {"tool_name": name, "arguments": arguments, **output}
    return [call(message_id), update(message_id, status="complete", content=content)]


async def test_diffs_code_and_errors(server: ServerProcess, page: Page) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    run = Run(server.url)
    edit = {"file_path": "x.py", "old_string": "a\nold\nz", "new_string": "a\nnew\nz"}
    run.add(*returned("d", "git", {"command": "git diff"}, result=DIFF), *returned("e", "Edit", edit, result="ok"))
    run.add(*returned("b", "run", {"cmd": "pytest"}, error=TRACEBACK))
    run.add(*returned("j", "json", {"q": 1}, result={"text": "one\ntwo", "nearly": "z" * 412, "deep": {"a": 1}}))
    run.add(said("```python\ndef f() -> int:\n    return 1  # one\n```\n\n<b class='hljs-string'>no</b>"))
    run.add(completed("failed", error={"type": "TypeError", "message": "* wants int", "traceback": TRACEBACK}))
    await page.goto(run.url)
    row = page.locator(".row.tool")
    for index in (0, 1):
        await row.nth(index).locator(".line").click()
    await expect(row.nth(0).locator(".diff.added")).to_have_text("+    return 1\n")
    await expect(row.nth(0).locator(".diff.gone")).to_have_text("-    return None\n")
    await expect(row.nth(1).locator(".diff.gone")).to_have_text("-old\n")
    await expect(row.nth(1).locator(".diff.added")).to_have_text("+new\n")
    await expect(row.nth(1).locator(".json")).to_contain_text("x.py")  # its other arguments
    await row.nth(0).get_by_title("Copy the result").click()
    assert await page.evaluate("navigator.clipboard.readText()") == DIFF
    # An error is a line, in monospace; its traceback is folded
    for error in (row.nth(2).locator(".errortext"), page.locator(".failure .errortext"), page.locator(".row .status")):
        await expect(error.locator(".mono")).to_have_text("TypeError: * wants int")
        await expect(error.locator("pre")).not_to_be_visible()
        await error.locator("summary").click()
        await expect(error.locator("pre")).to_contain_text("line 3, in f")
    await row.nth(3).locator(".line").click()
    await expect(row.nth(3)).not_to_contain_text("more characters")
    heights = "keys => keys.map(key => key.getClientRects().length)"  # none is broken into two lines
    assert set(await row.nth(3).locator(".key").evaluate_all(heights)) == {1}
    prose = page.locator(".prose")
    await expect(prose.locator(".hljs-keyword").first).to_have_text("def")
    await expect(prose.locator(".hljs-comment")).to_have_text("# one")
    await expect(prose.locator(".hljs-string")).to_have_count(0)
    await prose.get_by_role("button", name="Copy").click()
    await expect(page.locator(".toast")).to_have_text("Copied the code")
    assert await page.evaluate("navigator.clipboard.readText()") == "def f() -> int:\n    return 1  # one\n"


async def test_a_hit_in_what_is_folded(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    hidden = "\n".join(f"line {n}" for n in range(60))
    run.add(
        said("needle in sight"), *returned("t", "cat", {"path": "x"}, result=f"some words before the needle, {hidden}")
    )
    run.add(said(f"{hidden}\nand a needle at the end"), {"event": "thought", "deep": {"text": f"{'x ' * 200} needle"}})
    await page.goto(run.url)
    await page.get_by_label("Search in messages").fill("needle")
    await expect(page.locator(".search")).to_contain_text("1/4")
    snippets = page.locator(".snippet")
    await expect(snippets).to_have_count(3)
    await expect(snippets.first).to_contain_text("some words before the needle")
    await expect(snippets.first.locator("mark")).to_have_text("needle")
    await snippets.first.click()
    await expect(page.locator(".row.tool .opened")).to_contain_text("some words before the needle")
    await expect(snippets).to_have_count(2)
    await page.get_by_label("Search in messages").press("Enter")  # the next is opened by itself
    await page.get_by_label("Search in messages").press("Enter")
    await expect(page.get_by_text("and a needle at the end")).to_be_visible()
    await expect(snippets).to_have_count(1)


async def test_kinds_of_events_can_be_filtered_away(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("begun"), *({"event": "progress", "done": n} for n in range(20)), {"event": "thought", "text": "hm"})
    run.add({"event": "input_requested", "question": "Go on?", "request_id": "q"})
    await page.goto(run.url)
    rows = page.locator(".said .row")
    await expect(rows).to_have_count(23)
    await page.locator(".events summary").click()
    await expect(page.locator(".events label")).to_have_text([re.compile("All"), "progress 20", "thought 1"])
    await page.locator(".events label", has_text="progress").click()
    await expect(rows).to_have_count(3)
    assert "hide=progress" in page.url
    run.add({"event": "progress", "done": 21}, said("and on"))
    await expect(rows).to_have_count(4)
    await page.reload()
    await expect(rows).to_have_count(4)
    await page.locator(".events summary").click()
    await page.locator(".events label", has_text="All").click()
    await expect(rows).to_have_count(25)
    await page.locator(".events label", has_text="All").click()
    await expect(rows).to_have_count(3)  # messages, and the question


async def test_a_branch_that_was_left_is_folded(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("before"), *(said(f"left {n}", message_id=f"l{n}") for n in range(3)), said("after it went back"))
    await page.goto(run.url)
    await expect(page.get_by_text("left 2")).to_be_visible()
    run.add(*(update(f"l{n}", left=True) for n in range(3)))
    fold = page.get_by_role("button", name="3 messages of a branch that was left")
    await expect(fold).to_be_visible()
    await expect(page.locator(".row.text:visible")).to_have_count(2)
    await fold.click()
    await expect(page.get_by_text("left 2")).to_be_visible()
    await expect(page.locator(".row.left")).to_have_count(3)
    await page.get_by_label("Search in messages").fill("left 1")  # a search finds it where it is folded, too
    await expect(page.locator(".row.hit")).to_contain_text("left 1")


async def test_what_a_run_is_about(server: ServerProcess, page: Page) -> None:
    first = Run(server.url, "The one before")
    more: dict[str, Any] = {"tags": ["auth"], "session_id": "s-1", "user_id": "maria"}
    more["metadata"] = {"commit": "8f2d11c"}
    run = Run(server.url, links=[{"trace_id": first.id, "kind": "fork_of"}], **more)
    run.add(goal("1", "Go on"), said("x"))
    await page.goto(run.url)
    await expect(page.locator(".facts .began")).to_have_text(re.compile(r"began \d\d:\d\d:\d\d"))
    await expect(page.locator(".facts")).to_contain_text("fork of The one before")
    await page.locator(".about summary").click()
    about = page.locator(".about > div")
    for words in ("began", "auth", "s-1", "maria", "8f2d11c", run.id, first.id):
        await expect(about).to_contain_text(words)
    await page.keyboard.press("Escape")
    await expect(about).not_to_be_visible()
