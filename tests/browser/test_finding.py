"""Finding: the filter's field in the list, and the search page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, completed, said
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_filter_is_understood_word_by_word(server: ServerProcess, page: Page) -> None:
    parent = Run(server.url, "Nightly build", tags=["nightly"])
    Run(server.url, "Below it", agent_type="tester", parent_trace_id=parent.id).add(
        completed("failed", error="it broke")
    )
    Run(server.url, "Another one").add(said("a needle in a haystack"), completed())
    await page.goto(server.url)
    rows, field = page.locator(".tbody .tr"), page.locator(".filter")
    await expect(rows).to_have_count(2)
    await expect(page.locator(".sums")).to_contain_text("2 runs")
    await field.fill("status:fa")
    await expect(page.locator("#filter-words option")).to_have_attribute("value", "status:failed")
    await field.fill("status:failed")
    await expect(rows).to_have_count(2)  # its parent stays
    await expect(rows.first).to_contain_text("Nightly build")
    await expect(rows.last).to_contain_text("Below it")
    await field.fill("agent:tester took>soon")
    await expect(page.locator(".faults")).to_contain_text("took wants a number")
    await expect(page.locator(".faults s")).to_have_text("took>soon")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await field.fill("tag:nightly -agent:tester")
    await expect(rows).to_have_count(1)
    await page.get_by_role("button", name="☆ Save view").click()
    await page.locator(".words-asked .chip", has_text="tag:nightly").click()
    await expect(field).to_have_value("-agent:tester")
    await expect(rows).to_have_count(2)
    await page.get_by_role("link", name="tag:nightly -agent:tester").click()
    await expect(field).to_have_value("tag:nightly -agent:tester")
    await page.reload()
    await expect(page.get_by_role("button", name="★ Saved")).to_be_visible()
    await field.fill("haystack")  # which only a message has
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("Another one")
    done = page.locator(".shows button", has_text="completed")
    await expect(done).to_contain_text("1")
    await field.fill("-haystack")
    await expect(page.locator(".shows button", has_text="completed")).to_have_count(0)


async def test_search_opens_at_the_event(server: ServerProcess, page: Page, tmp_path: Path) -> None:
    run = Run(server.url, "Look for it")
    run.add(*[said(f"line {n}") for n in range(300)], said("the <b>golden</b> thread"), said("more"), completed())
    Run(server.url, "And here").add(said("golden too"))
    await page.goto(f"{server.url}/?f=golden")
    await page.get_by_role("link", name="Search for this").click()
    await expect(page).to_have_url(re.compile(r"/search\?q=golden$"))
    sections = page.locator(".hits section")
    await expect(sections).to_have_count(2)
    await expect(sections.first).to_contain_text("And here")
    await expect(page.locator(".hits mark")).to_have_text(["golden", "golden"])
    await expect(page.locator(".finding [role=status]")).to_have_text("2 in 2 runs")
    await sections.last.get_by_role("listitem").get_by_role("link").click()
    await expect(page).to_have_url(re.compile(r"event=301"))
    await expect(page.locator(".row", has_text="golden")).to_be_visible()
    await page.go_back()
    await expect(page.locator(".hits mark").first).to_have_text("golden")
    field = page.locator(".filter")
    await field.fill("colour:red golden")
    await expect(page.get_by_role("alert")).to_contain_text("colour is no field")
    await field.fill("golden status:completed")
    await expect(sections).to_have_count(1)
    await field.fill("nothing like it")
    await expect(page.locator(".nothing")).to_have_text("Nothing is found.")
