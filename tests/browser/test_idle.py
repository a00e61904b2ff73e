"""An idle page: one clock ticks once a second, and nothing has frames drawn."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, call, goal, said
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

COUNT = """() => { const count = window.counted = {requestAnimationFrame: 0, setTimeout: 0};
  for (const name in count) {
    const real = window[name].bind(window);
    window[name] = (...of) => { count[name]++; return real(...of) } } }"""
HIDDEN = """hidden => { Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true});
  document.dispatchEvent(new Event('visibilitychange')) }"""


async def test_a_page_on_which_nothing_happens(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "It thinks")
    run.add(goal("1", "Think"), *(said(f"thought {n}") for n in range(50)), call("t", arguments={"a": 1}))
    for url in (run.url, server.url):
        await page.clock.install()
        await page.goto(url)
        await expect(page.locator(".pill")).to_contain_text("live")
        await expect(page.locator(".is-running").first).to_be_visible()
        if url == run.url:
            await expect(page.get_by_text("thought 49")).to_be_visible()
        else:
            await expect(page.locator(".tbody .c-now")).to_contain_text("Think")  # its current goal, asked for last
        await page.clock.run_for(3_000)
        assert await page.evaluate("document.getAnimations().length") == 0
        await page.evaluate(COUNT)
        ticked = page.locator(".took, .n-duration").last  # the running call's clock; the run's
        before = await ticked.text_content()
        await page.clock.run_for(10_000)  # no longer: without a word for 19 s it would ask whether the socket lives
        assert await ticked.text_content() != before
        counted = await page.evaluate("counted")
        assert counted["requestAnimationFrame"] == 0
        assert counted["setTimeout"] in (10, 11)  # time goes on by itself as well
        await page.evaluate(HIDDEN, True)
        await page.clock.run_for(5_000)
        assert await page.evaluate("counted") == counted
        await page.evaluate(HIDDEN, False)
        await page.clock.run_for(2_000)
        assert await page.evaluate("counted.setTimeout") > counted["setTimeout"]
