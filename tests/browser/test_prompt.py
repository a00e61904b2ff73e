"""What a model call was asked, in the inspector: of a server's page, and of one that was exported."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, completed, said
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def inspected(page: Page, address: str) -> None:
    await page.goto(address)
    await page.locator(".row.hit .at").click()
    await expect(page.locator(".inspector")).to_contain_text("stored event")


async def looked_at(page: Page) -> None:
    """The panel of the second call says all of it, and what is new in it."""
    panel = page.get_by_role("region", name="Prompt")
    await expect(panel.locator("li")).to_have_count(2)  # what is new; the rest is one line
    await panel.get_by_text("2 items as before").click()
    await expect(panel.locator("li")).to_have_count(4)
    await expect(panel).to_contain_text("m-2 · $0.0042")
    assert await panel.locator(".usagewords span").all_inner_texts() == ["200 input", "1,000 from cache", "300 output"]
    widths = await panel.locator(".usage i").evaluate_all("parts => parts.map(part => part.offsetWidth)")
    assert widths[1] / widths[2] == pytest.approx(10 / 3, rel=0.1)
    await expect(panel).to_contain_text("4 items, 2 new since the call before")
    await expect(panel.locator("li.fresh")).to_have_count(2)
    await expect(panel.locator("li").nth(0)).to_contain_text("system")
    await expect(panel.locator("li.fresh").nth(1)).to_contain_text("And <b>then</b>?")
    await panel.get_by_text("2 tools offered").click()
    await expect(panel).to_contain_text("grep")
    await panel.get_by_text("params", exact=True).click()
    await expect(panel).to_contain_text("temperature")


async def test_the_prompt_of_a_model_call(server: ServerProcess, page: Page, exported: Path) -> None:
    run = Run(server.url)
    first = {"params": {"temperature": 0}, "tools": [{"name": "grep"}, {"name": "ls"}]}
    first["input"] = [{"message_id": "s"}, {"message_id": "u"}]
    items = [{"input_of": "a", "to": 2}, {"message_id": "a"}, {"role": "user", "content": "And <b>then</b>?"}]
    second = {"params_of": "a", "tools": [{"tools_of": "a", "to": 2}], "input": items}
    usage = {"input_tokens": 1200, "cache_read_tokens": 1000, "output_tokens": 300}
    run.add(
        said("You fix bugs.", role="system", message_id="s"),
        said("Why?", role="user", message_id="u"),
        said("So.", message_id="a", request=first),
        said("Then that.", message_id="b", model="m-2", usage=usage, cost=0.0042, request=second),
        completed(),
    )
    await inspected(page, f"{run.url}?message=b")
    await looked_at(page)
    await inspected(page, f"{run.url}?message=a")
    await expect(page.get_by_role("region", name="Prompt").locator("li")).to_have_count(2)
    await expect(page.get_by_role("region", name="Prompt")).not_to_contain_text("new")
    await inspected(page, f"{run.url}?message=u")
    await expect(page.get_by_role("region", name="Prompt")).to_have_count(0)
    await page.locator(".export summary").click()
    async with page.expect_download() as download:
        await page.get_by_text("One HTML file").click()
    await (await download.value).save_as(exported)
    await page.goto(exported.as_uri())
    await page.locator(".row", has_text="Then that.").locator(".at").click()
    await looked_at(page)
