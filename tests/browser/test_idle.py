"""An idle page: what runs ticks once a second by one clock, what has ended not at all; nothing has frames drawn."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import all_loaded
from tests.browser.runs import Run, call, completed, goal, said
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
        await all_loaded(page)
        await page.clock.run_for(1_000)
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


async def test_a_page_of_a_run_that_has_ended_does_nothing(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "It thought")
    run.add(goal("1", "Think"), *(said(f"thought {n}") for n in range(50)), completed())
    await page.clock.install()
    await page.goto(run.url)
    await expect(page.locator(".pill")).to_have_text("ended")
    await expect(page.get_by_text("thought 49")).to_be_visible()
    await page.clock.run_for(8_000)
    await all_loaded(page)
    await page.clock.run_for(1_000)
    await page.evaluate(COUNT)
    await page.clock.run_for(8_000)
    assert await page.evaluate("counted") == {"requestAnimationFrame": 0, "setTimeout": 0}
