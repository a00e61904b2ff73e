"""What stands between a page and its server is said: no WebSocket, another Host, a page older than its server."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import allow
from tests.browser.runs import Run, completed, said
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
