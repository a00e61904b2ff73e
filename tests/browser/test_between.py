"""What stands between a page and its server is said: no WebSocket, another Host, a page older than its server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import all_loaded, allow
from tests.browser.runs import Run, completed, goal, said
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NO_SOCKET = """window.WebSocket = class { constructor() { this.readyState = 0;
  setTimeout(() => { this.readyState = 3; this.onclose?.({code: 1006, reason: ''}) }) } send() {} close() {} }"""


async def test_without_a_websocket_it_goes_on_over_http_and_says_so(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("the beginning"))
    allow(page, "status of 426")
    await page.add_init_script(NO_SOCKET)
    await page.goto(run.url)
    await expect(page.get_by_text("the beginning")).to_be_visible()
    await expect(page.locator(".pill")).to_contain_text("over HTTP: no WebSocket")
    note = page.get_by_role("button", name="over HTTP")
    await expect(note).to_have_attribute("title", re.compile("Upgrade and Connection"))
    run.add(said("it goes on"))
    await expect(page.get_by_text("it goes on")).to_be_visible()
    other = Run(server.url, "Another run")
    await page.keyboard.press("t")
    await expect(page.locator(".tbody")).to_contain_text("Another run")
    other.add(completed("failed", error="it broke"))
    await expect(page.locator(".needs")).to_contain_text("it broke")
    await page.locator(".tbody a", has_text="Another run").click()
    await expect(page.locator(".pill")).to_contain_text("ended")


async def test_a_host_that_was_changed_on_the_way_is_named(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("the beginning"))
    allow(page, "status of 403")

    async def refuse(route: Route) -> None:
        words = "Origin is not this server's: a proxy changes Host"
        await route.fulfill(status=403, json={"error": "forbidden", "message": words})

    await page.add_init_script(NO_SOCKET)
    await page.route("**/api/watch", refuse)
    await page.goto(run.url)
    note = page.get_by_role("button", name="over HTTP")
    await expect(note).to_have_attribute("title", re.compile("a proxy changes Host"))


async def test_a_page_that_is_older_than_its_server_offers_to_reload(server: ServerProcess, page: Page) -> None:
    allow(page, "CONNECTION_REFUSED", "WebSocket")
    Run(server.url)
    await page.goto(server.url)
    await expect(page.locator(".pill")).to_contain_text("live")
    upgraded = (await (await page.request.get(server.url)).text()).replace("static/index-", "static/index-newer-", 1)

    async def newer(route: Route) -> None:
        if route.request.resource_type == "fetch":
            await route.fulfill(body=upgraded, content_type="text/html")
        else:
            await route.continue_()

    await page.route(server.url + "/", newer)
    server.kill()
    server.start()
    await page.get_by_role("button", name="Newer version: reload").click()
    await expect(page.locator(".pill")).to_contain_text("live")
    await expect(page.locator(".newer")).to_have_count(0)


async def test_what_is_shown_later_is_there_when_the_server_is_not(tmp_path: Path, page: Page) -> None:
    """The parts of the page that its first rows do not need are loaded soon, not when they are asked for."""
    allow(page, "ERR_CONNECTION_REFUSED", "WebSocket connection to")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url)
        run.add(goal("1", "Look"), said("All of it"))
        await page.goto(run.url)
        await expect(page.get_by_text("All of it")).to_be_visible()
        await all_loaded(page)
    await page.get_by_text("Export").click()
    await page.get_by_text("Copy as Markdown").click()
    await expect(page.locator(".toast")).to_contain_text("Copied the run as Markdown")
    await page.locator(".row .at").last.click()
    await expect(page.get_by_role("complementary", name="Inspector")).to_be_visible()


async def test_a_part_that_cannot_be_loaded_says_so(server: ServerProcess, page: Page) -> None:
    allow(page, "ERR_FAILED", "Failed to load resource")
    await page.route("**/static/question-*.js", lambda route: route.abort())
    run = Run(server.url)
    run.add({"event": "input_requested", "request_id": "q", "question": "Go on?", "schema": {"type": "boolean"}})
    await page.goto(run.url)
    await expect(page.get_by_role("alert").filter(has_text="could not be loaded")).to_be_visible()
    await expect(page.get_by_role("button", name="Reload")).to_be_visible()
    await page.unroute("**/static/question-*.js")
    await page.reload()
    await expect(page.locator(".question")).to_contain_text("Go on?")


async def test_where_the_browser_keeps_nothing_it_works_and_says_so(server: ServerProcess, page: Page) -> None:
    run = Run(server.url)
    run.add(said("hello"))
    await page.add_init_script("""for (const name of ['localStorage', 'sessionStorage'])
        Object.defineProperty(window, name, {get() { throw new DOMException('denied', 'SecurityError') }})""")
    await page.goto(run.url)
    await expect(page.get_by_text("hello")).to_be_visible()
    await expect(page.locator(".toast")).to_have_count(0)
    await page.keyboard.press("d")
    await expect(page.locator(".toast")).to_contain_text("keeps no data of sites")
