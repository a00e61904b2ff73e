"""What an agent asks leave for: shown whole, with two equal answers of which none is near at hand."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
COMMAND = "cd /srv/shop && \\\n  rm -r build" + "".join(f" \\\n  --part-{n}" for n in range(40)) + "\u202e # txt.exe"


def say(server: ServerProcess, session_id: str, name: str, **fields: Any) -> Any:
    """Send one hook; what it is answered with."""
    body = {"session_id": session_id, "cwd": "/srv/shop", "prompt_id": "p", "hook_event_name": name, **fields}
    request = urllib.request.Request(
        f"{server.url}/api/hooks/claude-code?hold=600",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


async def ask(server: ServerProcess, session_id: str) -> asyncio.Task[Any]:
    """A session that asks to run a command; the task has what it is told."""
    given = {"command": COMMAND, "description": "Clean up"}
    await asyncio.to_thread(say, server, session_id, "UserPromptSubmit", prompt="Clean the build")
    tool = {"tool_name": "Bash", "tool_input": given}
    await asyncio.to_thread(say, server, session_id, "PreToolUse", tool_use_id="toolu_1", **tool)
    return asyncio.create_task(asyncio.to_thread(say, server, session_id, "PermissionRequest", **tool))


@pytest.mark.parametrize("name", ["Allow", "Deny"])
async def test_a_permission_is_shown_whole_and_answered(server: ServerProcess, page: Page, name: str) -> None:
    session_id = f"permission-{name}"
    task = await ask(server, session_id)
    await page.goto(f"{server.url}/traces/cc-{session_id}")
    card = page.locator(".question.leave")
    shown = card.locator("pre").first
    await expect(shown).to_contain_text("--part-39")
    assert await shown.inner_text() == COMMAND.replace("\u202e", "\\u202e") or "\u202e" not in await shown.inner_text()
    await expect(card).to_contain_text("Claude Code asks in /srv/shop, since")
    await expect(card).to_contain_text("can't be undone")
    boxes = [await card.get_by_role("button", name=one, exact=True).bounding_box() for one in ("Allow", "Deny")]
    first, second = boxes
    assert first and second
    assert (first["width"], first["height"]) == (second["width"], second["height"])
    # No key leads straight to an answer
    focused = await page.evaluate("document.activeElement.tagName")
    assert focused != "BUTTON"
    await page.keyboard.press("Enter")
    assert not task.done()
    await card.get_by_role("button", name=name, exact=True).click()
    decision = (await task)["hookSpecificOutput"]["decision"]
    assert decision["behavior"] == name.lower()


async def test_what_the_terminal_decides_is_said(server: ServerProcess, page: Page) -> None:
    task = await ask(server, "at-terminal")
    await page.goto(f"{server.url}/traces/cc-at-terminal")
    card = page.locator(".question.leave")
    await card.hover()
    told = {"tool_name": "Bash", "tool_use_id": "toolu_1", "tool_response": {"stdout": "done"}}
    await asyncio.to_thread(say, server, "at-terminal", "PostToolUse", **told)
    assert await task == {}
    await expect(card).to_contain_text("at the terminal")
    await expect(card.get_by_role("button", name="Allow")).to_have_count(0)
