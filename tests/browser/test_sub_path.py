"""Below a path, behind a proxy: the list, a run, its address, live events, the past, export. Nothing asks the root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, said
from tests.sub_path import PATH, below_a_path
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.mark.parametrize("cut", [True, False])
async def test_the_viewer_below_a_path(tmp_path: Path, page: Page, exported: Path, cut: bool) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    with ServerProcess(tmp_path / "log.db", root_path="" if cut else PATH) as server:
        run = Run(server.url)
        run.add(said("the **first** words"))
        async with below_a_path(server.url, cut=cut) as url:
            await page.goto(f"{url}/")
            await page.get_by_role("link", name="Fix the login bug").first.click()
            await expect(page.locator("strong", has_text="first")).to_be_visible()
            assert page.url.startswith(f"{url}/traces/{run.id}")
            run.add(said("a second message"))
            await expect(page.get_by_text("a second message")).to_be_visible()
            await page.goto(f"{url}/traces/{run.id}/?at=1")
            await expect(page.locator(".pastbar")).to_contain_text("As it was after event 1")
            assert page.url == f"{url}/traces/{run.id}?at=1"
            await page.keyboard.press(".")
            await expect(page.get_by_text("a second message")).to_be_visible()
            await page.locator(".export summary").click()
            async with page.expect_download() as download:
                await page.get_by_text("One HTML file").click()
            await (await download.value).save_as(exported)
            await page.get_by_role("link", name="tracewatch").first.click()
            await expect(page).to_have_url(f"{url}/")
            await page.reload()
            await expect(page.get_by_role("link", name="Fix the login bug").first).to_be_visible()
            await page.goto("about:blank")  # before the proxy goes
            below = re.compile(rf"(?:http|ws){re.escape(url.removeprefix('http'))}/|blob:")
            assert [found for found in asked if not below.match(found)] == []
            assert any(found.startswith("ws:") for found in asked)
        await page.goto(exported.as_uri())  # opens without the proxy
        await expect(page.get_by_text("a second message")).to_be_visible()
