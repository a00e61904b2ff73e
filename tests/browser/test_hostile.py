"""Text of agents is only ever shown, in every place of the page and in an export opened from a file.

The tests notice dialogs, windows, requests elsewhere, errors in scripts, reports of the Content-Security-Policy and a
changed variable.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.async_api import Page, Request, expect

from tests.browser.runs import Run, call, completed, goal, said, update
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PWN = "window.__pwned=1"
EVIL = (
    f"<script>{PWN}</script><img src=x onerror={PWN}><svg onload={PWN}><a xlink:href=javascript:{PWN}>x</a></svg>"
    f"<iframe srcdoc='<script>parent.__pwned=1</script>'></iframe><details open ontoggle={PWN}>d</details>"
    "<style>*{display:none}</style><link rel=stylesheet href=http://evil.example/x.css>"
    "<base href=http://evil.example>"
    f"<form action=http://evil.example><input autofocus onfocus={PWN}></form><!-- hidden -->--></script></title>"
    f"</textarea>\"'><b onmouseover={PWN}>&lt;i&gt;{{{{7*7}}}}${{7*7}} \x1b[31mred\x1b[0m"
    "\x1b]8;;http://evil.example\x07osc\x1b]8;;\x07 "
    "\u202egpj.exe\u2066x\u200by\ufeffz\u00adw\u200dv\U000e0041 \u05d0\u05d1\u05d2 " + "w" * 300
)
MARKDOWN = (
    f"**bold** [script](javascript:{PWN}) [data](data:text/html,<script>{PWN}</script>) [vb](vbscript:x) "
    f"![image](http://evil.example/x.png) ![svg](data:image/svg+xml,<svg/onload={PWN}>) <javascript:{PWN}> "
    f"[ok](https://example.com)\n[ref]: javascript:{PWN}\n[ref][ref] ![r][ref]\n\n# {EVIL}\n\n"
    f"| <img src=x onerror={PWN}> |\n|-|\n| [a](java\tscript:{PWN}) |\n\n"
    f"```html\n{EVIL}\n```\n[tel](tel:1) [rel](/api/traces) [//x](//evil.example) &#106;avascript:x "
    f"[e](&#106;avascript:{PWN})\n"
)
SCHEMA = {
    "type": "object",
    "title": EVIL,
    "description": EVIL,
    "required": [EVIL],
    "properties": {
        EVIL: {"type": "string", "description": EVIL, "title": EVIL, "default": EVIL},
        "__proto__": {"type": "string"},
        "pick": {"enum": [EVIL, {EVIL: EVIL}]},
        "either": {"oneOf": [{"title": EVIL, "type": "string"}, {"title": "two", "const": EVIL}]},
    },
}
TRAP = """window.__violations = [];
addEventListener('securitypolicyviolation', (e) => __violations.push(`${e.violatedDirective} ${e.blockedURI}`));"""
CAUGHT = """() => ({
  pwned: window.__pwned, violations: window.__violations,
  elements: [...document.querySelectorAll(
      '#app :is(img, iframe, script, style, link, base, object, embed, video, svg a)')]
    .map((one) => one.outerHTML.slice(0, 200)),
  forms: [...document.querySelectorAll('#app form')].filter((one) => one.getAttribute('action')).length,
  handlers: [...document.querySelectorAll('#app *')].flatMap((one) => one.getAttributeNames())
    .filter((name) => /^on/.test(name)),
  links: [...document.querySelectorAll('#app a[href]')].map((one) => one.getAttribute('href'))
    .filter((href) => !/^(https?:\\/\\/(example\\.com|evil\\.example)|\\/traces\\/|\\/(\\?f=[^&#]*)?$)/.test(href)),
  hidden: [...document.querySelectorAll('#app *')].flatMap((one) => [...one.childNodes]
    .filter((node) => node.nodeType === 3)
    .filter(({ data }) => /[\\u202a-\\u202e\\u2066-\\u2069\\u200b\\ufeff\\u00ad\\u{e0041}\\u001b]/u.test(data))
    .map(() => one.outerHTML.slice(0, 150))),
})"""
NOTHING: dict[str, Any] = {
    "pwned": None,
    **{name: [] for name in ("violations", "elements", "handlers", "links", "hidden")},
    "forms": 0,
}


async def caught(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = {"pwned": None, **await page.evaluate(CAUGHT)}
    found["links"] = [link for link in found["links"] if link != "/search?q="]  # the page's own
    return found


async def trap(page: Page) -> None:
    await page.add_init_script(TRAP)
    await page.set_viewport_size({"width": 1280, "height": 3600})  # so that all is drawn

    def opened(other: Page) -> None:
        page.faults.found.append(f"a window opened: {other.url}")  # type: ignore[attr-defined]

    page.on("popup", opened)


def hostile(url: str) -> Run:
    run = Run(url, EVIL, agent_type=EVIL[:250], metadata={EVIL: EVIL})
    run.add(goal(EVIL[:200], EVIL, reason=EVIL))
    child = Run(url, EVIL, agent_type=EVIL[:250], parent_trace_id=run.id, parent_goal_id=EVIL[:200])
    child.add(said(EVIL), completed("failed", error=EVIL, summary=EVIL))
    run.add(said(MARKDOWN), said(EVIL, role=EVIL[:200], agent=EVIL[:200], model=EVIL[:200], kind=EVIL[:200]))
    run.add(
        said("x", message_id=EVIL[:200], content={EVIL: EVIL, "deep": [{EVIL: [EVIL]}]}),
        said("", content=[{"text": EVIL}]),
    )
    run.add(call("t", tool_name=EVIL, arguments={EVIL: EVIL}), call("u", tool_name=EVIL, arguments=EVIL))
    run.add(update("t", content={"tool_name": EVIL, "arguments": {EVIL: EVIL}, "error": EVIL}, status="complete"))
    run.add(update("u", content={"tool_name": EVIL, "arguments": EVIL, "result": EVIL, EVIL: 1}, status="complete"))
    run.add(
        said(EVIL, message_id="stream", status="streaming"),
        {"event": "thought", EVIL: EVIL},
        {"event": "error", "text": EVIL},
    )
    run.add({"event": "trace_status_changed", "status": "running", "reason": EVIL})
    run.add(goal("2", EVIL, parent_id=EVIL[:200], status="completed", summary=EVIL))
    run.add({"event": "input_requested", "question": EVIL, "request_id": EVIL[:200], "options": [EVIL, {EVIL: EVIL}]})
    run.add({"event": "input_requested", "question": MARKDOWN, "schema": SCHEMA})
    return run


async def open_everything(page: Page, *, inspect: bool = True) -> None:
    await expect(page.locator(".row.tool .line").first).to_be_visible()
    await page.evaluate("document.querySelectorAll('.line').forEach((line) => line.click())")
    await expect(page.locator(".opened").first).to_be_visible()
    await page.evaluate("document.querySelectorAll('.json .twist[aria-expanded=false]').forEach((one) => one.click())")
    await expect(page.locator("canvas.fall")).to_be_visible()  # loaded behind the first rows
    box = await page.locator("canvas.fall").bounding_box()
    assert box
    for x in range(2, 20):  # somewhere there is a span, which has a tooltip
        await page.mouse.move(box["x"] + box["width"] * x / 20, box["y"] + 8)
    if not await page.locator(".goal.selected").count():
        await page.locator(".goal").first.evaluate("(row) => row.click()")
    await expect(page.locator(".details")).to_contain_text("<script>window.__pwned=1</script>")
    await page.locator(".goal.selected").evaluate("(row) => row.click()")
    await expect(page.locator(".goal.selected")).to_have_count(0)
    if not inspect:
        return
    await page.evaluate("document.querySelectorAll('.row .at')[1].click()")
    for _ in range(await page.locator(".row").count()):
        await expect(page.locator(".inspector .block, .inspector .fault").first).to_be_attached()
        await page.locator(".inspector").get_by_label("Next event").evaluate("(button) => button.click()")
    await page.keyboard.press("Escape")


async def test_nothing_an_agent_says_does_anything(server: ServerProcess, page: Page) -> None:
    await trap(page)
    run = hostile(server.url)
    await page.goto(server.url)
    await expect(page.locator(".tbody .tr")).to_have_count(1)
    await page.locator(".twist").click()
    await page.get_by_role("button", name="Answer…").click()
    await expect(page.locator(".question form")).to_be_visible()
    assert await caught(page) == NOTHING
    for address in (
        "",
        f"?message={quote(EVIL[:200])}",
        f"?goal={quote(EVIL[:200])}",
        f"?q={quote(EVIL[:60])}",
        "?at=16",
    ):
        await page.goto(run.url + address)
        await expect(page.locator(".row").first).to_be_visible()
        if address.startswith("?at"):
            await expect(page.locator(".pastbar b")).to_be_visible()
        await open_everything(page, inspect=address == "")
        assert await caught(page) == NOTHING, address
    await page.goto(run.url)
    await page.keyboard.press("g")
    await expect(page.locator(".prose strong").first).to_be_visible()
    assert "\u202e" not in await page.title()
    await page.locator(".question").first.get_by_role("button", name="<script>").first.click()
    await page.keyboard.press("G")
    await expect(page.locator(".asked .answer")).to_be_visible()
    await page.request.post(f"{server.url}/api/traces/{run.id}/cancel", data={"by": EVIL[:200], "reason": EVIL})
    run.add(completed("failed", error=EVIL, summary=MARKDOWN))
    await expect(page.locator(".failure")).to_be_visible()
    assert await caught(page) == NOTHING
    await page.goto(f"{server.url}/traces/{quote(EVIL[:100].replace('/', ''))}?f={quote(EVIL)}")
    await expect(page.locator("main")).to_be_visible()
    assert await caught(page) == NOTHING


@pytest.mark.parametrize("made_by", ["the page", "the command line"])
async def test_nor_does_an_export(server: ServerProcess, page: Page, exported: Path, made_by: str) -> None:
    await trap(page)
    run = hostile(server.url)
    if made_by == "the page":
        await page.goto(run.url)
        await page.locator(".export summary").click()
        async with page.expect_download() as download:
            await page.get_by_text("One HTML file").click()
        await (await download.value).save_as(exported)
    else:
        command = [
            sys.executable,
            "-m",
            "tracewatch",
            "export",
            run.id,
            "--html",
            "-O",
            str(exported),
            "--url",
            server.url,
        ]
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.url != exported.as_uri():
            asked.append(request.url)

    page.on("request", note)
    await page.context.set_offline(True)
    await page.goto(exported.as_uri())
    policy = await page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content") or ""
    assert "default-src 'none'" in policy and "unsafe" not in policy
    await expect(page.locator(".prose strong").first).to_be_visible()
    await open_everything(page)
    child = page.locator(".goal .agent").first
    await child.click()
    await expect(page.locator(".inside")).to_be_visible()
    await expect(page.locator(".row").first).to_be_visible()
    found = await caught(page)
    found["links"] = [link for link in found["links"] if not link.startswith("/traces/")]
    assert found == NOTHING
    assert asked == []


async def test_markdown_that_takes_a_parser_down_or_long_is_shown(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said(">" * 2400 + " after the quotes"), said("**drawn** " + "_a" * 99_500 + "\n\nthe end of it"))
    await page.goto(run.url)
    await expect(page.get_by_text("after the quotes")).to_be_visible()
    await expect(page.locator("blockquote").first).to_be_visible()
    await page.get_by_role("button", name="Show all").last.click()
    await expect(page.get_by_text("the end of it")).to_be_attached()
    await page.get_by_role("button", name="Show less").last.click()  # the page is awake
    await expect(page.get_by_text("the end of it")).to_have_count(0)
