"""The list of traces: live, filtered, grouped, by keys only, ten thousand of them."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.runs import Run, completed, goal, said, written
from tests.support import ServerProcess
from tracewatch.log import EventLog
from tracewatch.model.events import validate_trace

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_it_is_live_and_by_keys_only(server: ServerProcess, page: Page) -> None:
    await page.goto(server.url)
    await expect(page.locator("h1")).to_have_text("No traces yet")
    shown = await page.locator(".lines pre").all_inner_texts()
    assert shown[0] == f"tracewatch demo --url {server.url}", "no second server"
    assert f"tracewatch run --url {server.url} -- python my_agent.py" in shown and "tracewatch.trace(" in shown[-1]
    assert all(server.url in line for line in shown), "each names where this page is"
    one = Run(server.url, "The first task")
    await expect(page.locator(".tbody .tr")).to_have_count(1)
    one.add(goal("1", "What it does now"))
    await expect(page.locator(".tbody .tr")).to_contain_text("What it does now")
    two = Run(server.url, "The second task", agent_type="tester")
    two.add(completed("failed", error="it broke"))
    await expect(page.locator(".tbody .tr")).to_have_count(2)
    await expect(page.locator(".needs")).to_contain_text("it broke")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_have_text("The first task")
    await page.keyboard.press("t")
    await expect(page.locator(".filter")).to_be_visible()
    await page.keyboard.press("/")
    await page.keyboard.type("status:failed agent:test second")
    await expect(page.locator(".tbody .tr")).to_have_count(1)
    await page.keyboard.press("Enter")
    await page.keyboard.press("o")
    await expect(page.locator("h1")).to_have_text("The second task")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Next error")


async def test_sub_agents_stand_under_their_parents(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "The parent")
    child = Run(server.url, "The child", parent_trace_id=run.id)
    child.add(said("hello"), completed("failed"))
    await page.goto(server.url)
    row = page.locator(".tbody .tr", has_text="The parent")
    await expect(row.locator(".badge.failed")).to_have_text("✕ 1")
    await expect(page.locator(".tbody .tr", has_text="The child")).to_have_count(0)
    await row.locator("button.twist").click()
    await expect(page.locator(".tbody .tr", has_text="The child")).to_have_count(1)


async def test_what_belongs_together_is_a_click_away(server: ServerProcess, page: Page) -> None:
    kin = {"session_id": "s-7", "user_id": "ann"}
    Run(server.url, "Kin one", tags=["nightly", "eu west"], **kin).add(said("hello", model="m-1"), completed())
    Run(server.url, "Kin two", tags=["nightly"], **kin).add(completed())
    late = {**said("late words"), "occurred_at": "2025-01-01T00:00:00Z"}
    Run(server.url, "Kin of last year").add(late, {**completed(), "occurred_at": "2025-01-01T00:01:00Z"})
    steps = {"format": "tau-bench", "times": "none"}
    Run(server.url, "Without times", metadata=steps).add(said("one"), said("two"), completed())
    await page.goto(server.url)
    rows = page.locator(".tbody .tr")
    one = rows.filter(has_text="Kin one")
    await one.get_by_role("button", name="#eu west").click()
    await expect(page.locator(".filter")).to_have_value('tag:"eu west"')
    await expect(rows).to_have_count(1)
    await rows.get_by_role("link").click()
    await page.locator(".facts").get_by_role("link", name="session s-7").click()
    await expect(page.locator(".filter")).to_have_value("session:s-7")
    assert page.url.endswith("?f=session%3As-7")
    await expect(rows).to_have_count(2)
    await page.locator(".filter").fill("kin")
    await expect(rows).to_have_count(3)
    await expect(rows.last).to_contain_text("Kin of last year")
    await expect(rows.last.locator(".n-duration")).to_have_text("1m 00s")
    await rows.last.get_by_role("link").click()
    said_at = page.locator(".row", has_text="late words").locator(".at")
    await expect(said_at).to_have_attribute("title", re.compile(r"delivered \d+ d later · event 1"))
    await page.goto(f"{server.url}/?f=without")
    await expect(rows.locator(".n-duration")).to_have_text("–")
    await rows.get_by_role("link").click()
    await expect(page.locator(".row .at")).to_have_text(["#1", "#2", "#3"])
    await expect(page.locator(".daybreak")).to_have_count(0)
    fall = page.locator("canvas.fall")
    await expect(fall).to_have_attribute("aria-label", re.compile("^Overview of 2 "))
    await fall.hover(position={"x": 200, "y": 10})
    await expect(page.locator(".tip")).to_contain_text("step 1")


async def test_what_failed_is_put_away_until_it_fails_again(server: ServerProcess, page: Page) -> None:
    run = Run(server.url, "It fails")
    child = Run(server.url, "Its helper", parent_trace_id=run.id, agent_type="helper")
    child.add(completed("failed", error="the helper broke"))
    await page.goto(server.url)
    needs = page.locator(".needs .trouble", has_text="It fails")
    await expect(needs).to_contain_text("sub-agent helper: the helper broke")
    await needs.get_by_role("button", name="Put away").click()
    await expect(needs).to_have_count(0)
    await page.reload()
    await expect(page.locator(".tbody .tr", has_text="It fails")).to_be_visible()
    await expect(needs).to_have_count(0)
    run.add(completed("failed", error="so it broke itself"))
    await expect(needs).to_contain_text("so it broke itself")
    await needs.get_by_role("link").click()  # looked at is put away
    await expect(page.locator("h1")).to_have_text("It fails")
    await page.go_back()
    await expect(page.locator(".tbody .tr", has_text="It fails")).to_be_visible()
    await expect(needs).to_have_count(0)
    run.add({"event": "trace_status_changed", "status": "running"}, completed("failed", error="and again"))
    await expect(needs).to_contain_text("and again")


async def test_ten_thousand_traces(tmp_path: Path, page: Page) -> None:
    async def write(log: EventLog) -> None:
        for first in range(0, 10_000, 500):
            specs = [validate_trace({"trace_id": f"t{n}", "task": f"Task {n}"}) for n in range(first, first + 500)]
            await asyncio.gather(*(log.create_trace(spec) for spec in specs))

    await written(tmp_path / "many.db", write)
    with ServerProcess(tmp_path / "many.db") as many:
        await page.goto(many.url)
        await expect(page.locator(".table")).to_have_attribute("aria-rowcount", "10000")
        assert await page.locator(".tbody .tr").count() < 100
        await page.keyboard.press("End")
        await expect(page.locator(".tbody .tr.focused")).to_be_in_viewport()
        await page.locator(".filter").fill("9876")
        await expect(page.locator(".tbody .tr")).to_have_count(1)
        await expect(page.locator(".tbody .tr")).to_contain_text("Task 9876")


async def test_a_list_of_few_runs_is_drawn_whole_for_the_browsers_own_search(tmp_path: Path, page: Page) -> None:
    async def write(log: EventLog) -> None:
        for n in range(150):
            await log.create_trace(validate_trace({"trace_id": f"t{n}", "task": f"Task {n}." if n else "The first"}))

    await written(tmp_path / "few.db", write)
    with ServerProcess(tmp_path / "few.db") as few:
        await page.goto(few.url)
        await expect(page.locator(".tbody .tr")).to_have_count(150)
        assert await page.evaluate("find('The first')")


async def test_what_is_damaged_in_the_database_is_marked(tmp_path: Path, page: Page) -> None:
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url, "Bad blocks")
        run.add(said("All of it"))
        server.stop()
        with sqlite3.connect(tmp_path / "log.db") as db:
            db.execute("UPDATE traces SET metadata = '{no json'")
        db.close()
        server.start()
        await page.goto(server.url)
        await expect(page.locator(".tbody .tr .badge")).to_have_text("damaged")
        await expect(page.locator(".tbody .tr .badge")).to_have_attribute("title", re.compile("metadata.*doctor"))
        await page.get_by_role("link", name="Bad blocks").click()
        await expect(page.locator(".facts .badge")).to_have_text("damaged")
