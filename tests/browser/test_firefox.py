"""What one reads stays, in Firefox too: scrolling, selecting, the list's order, going back. `make firefox` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.firefox import FirefoxPage, firefox, found
from tests.browser.runs import Run, said, said_many, update, written
from tests.browser.test_places import many
from tests.browser.test_reading import FIRST_ROW, SELECT, going_on
from tests.support import ServerProcess

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.skipif(found() is None, reason="no Firefox (apt install firefox-esr)"),
]

LEFT = "(box => box.scrollHeight - box.scrollTop - box.clientHeight)(document.querySelector('.said'))"
TO_END = "document.querySelector('.float').click()"
FOLLOWS = "!document.querySelector('.said ~ .float')"
TOP_RUN = """(box => { const at = box.getBoundingClientRect();
  const row = document.elementFromPoint(at.left + 200, at.top + 16).closest('.tr');
  return `${row.querySelector('a').textContent} ${Math.round(row.getBoundingClientRect().top)}` })
  (document.querySelector('.tbody'))"""


async def test_the_first_movement_up_ends_following(server: ServerProcess, tmp_path: Path) -> None:
    """A trackpad's steps of 1 to 20 px, and a key, while fifty rows or pieces come in a second."""
    run = Run(server.url)
    run.add(*said_many(0, 200), said("", message_id="live", status="streaming"))
    async with firefox(tmp_path) as page:
        await page.goto(run.url)
        await page.until("document.querySelector('.said').textContent.includes('Message 199.')")
        for make in (lambda n: update("live", append=f"word {n}\n"), lambda n: said(f"row {n}")):
            async with going_on(run, make):
                for step in (1, 2, 5, 10, 20):
                    await page.until(f"{FOLLOWS} && {LEFT} < 2")
                    await page.wheel(800, 300, -step, times=5)
                    await page.until(f"{LEFT} > 150")  # the end goes on and on, and the list stays
                    await page.evaluate(TO_END)
                await page.until(FOLLOWS)
                await page.evaluate("document.querySelector('.said').focus()")
                await page.press("\ue013")  # the arrow up
                await page.until("document.querySelector('.float') !== null")
                await page.evaluate(TO_END)
                await page.until(FOLLOWS)


async def test_a_finger_ends_following_on_a_phone(server: ServerProcess, tmp_path: Path) -> None:
    run = Run(server.url)
    run.add(*said_many(0, 100))
    async with firefox(tmp_path, 390, 740) as page:
        await page.goto(run.url)
        await page.until("document.querySelector('.said').textContent.includes('Message 99.')")
        async with going_on(run, lambda n: said(f"row {n}")):
            await page.point((200, 300), *((200, y) for y in range(304, 360, 4)), down=True, kind="touch")
            await page.until("document.querySelector('.float').textContent.includes('new')")
            read = await page.evaluate(f"String(({FIRST_ROW})(document.querySelector('.said')))")
            await page.until("parseInt(document.querySelector('.float').textContent.slice(2)) > 20")
            assert await page.evaluate(f"String(({FIRST_ROW})(document.querySelector('.said')))") == read


async def test_a_selection_outlasts_what_comes(server: ServerProcess, tmp_path: Path) -> None:
    run = Run(server.url)
    run.add(said("The **first** message"), said("It streams: some words", message_id="live", status="streaming"))
    selected = "getSelection().toString()"
    async with firefox(tmp_path) as page:
        await page.goto(run.url)
        await page.until("document.querySelector('.said strong') && document.querySelector('.streaming')")
        await page.evaluate(f"({SELECT})(document.querySelector('.said'), ['first', 'streams'])")
        before = await page.evaluate(selected)
        assert before.startswith("first") and before.endswith("streams")
        for n in range(100):
            run.add(update("live", append=f" and {n}"))
        run.add(update("live", status="complete"), *said_many(0, 60))
        await page.until("document.querySelector('.facts').textContent.includes('163 events')")
        assert await page.evaluate(selected) == before


async def test_the_list_holds_still_and_each_page_comes_back_as_it_was(tmp_path: Path) -> None:
    await written(tmp_path / "log.db", many)
    with ServerProcess(tmp_path / "log.db") as server:
        run = Run(server.url, "The long run")
        run.add(*said_many(0, 150))
        Run(server.url, "Child 1", parent_trace_id="r40")
        async with firefox(tmp_path) as page:
            await page.goto(f"{server.url}/?sort=activity")
            await page.until("document.querySelector('.tbody').textContent.includes('The long run')")
            await page.point((400, 300))
            under = "document.elementFromPoint(400, 300).closest('.tr').querySelector('a').textContent"
            pointed = await page.evaluate(under)
            Run(server.url, "It is new").add(said("hello"))
            await page.until("document.querySelector('.float')?.textContent.includes('1 new')")
            assert await page.evaluate(under) == pointed
            await page.point((400, 300), down=True)
            await page.until(f"document.querySelector('h1').textContent === '{pointed}'")
            await page.goto(server.url)
            await page.until("document.querySelector('.tbody').textContent.includes('The long run')")
            await page.evaluate("document.querySelector('.tbody').scrollTop = 32 * 40")
            await page.until("[...document.querySelectorAll('.tr')].some(row => row.textContent.includes('Run 40'))")
            await page.evaluate("""[...document.querySelectorAll('.tr')].find(row => row.textContent.includes('Run 40'))
                .querySelector('button.twist').click()""")
            await page.until("document.querySelector('.tbody').textContent.includes('Child 1')")
            left = await page.evaluate(TOP_RUN)
            await _read_in_a_run_and_come_back(page, run, left)


async def _read_in_a_run_and_come_back(page: FirefoxPage, run: Run, left: str) -> None:
    read = f"String(({FIRST_ROW})(document.querySelector('.said')))"
    await page.evaluate(
        f"""(() => {{ const link = document.createElement('a'); link.href = '/traces/{run.id}';
        document.body.append(link); link.click(); link.remove() }})()"""
    )
    await page.until("document.querySelector('.said').textContent.includes('Message 149.')")
    await page.evaluate("document.querySelector('.said').scrollTop = 2000")
    await page.until("document.querySelector('.float') !== null")
    place = await page.evaluate(read)
    await page.until("history.state.kept?.said !== undefined")
    await page.go(-1)
    await page.until(f"{TOP_RUN} === {left!r}")
    await page.go(1)
    await page.until(f"{read} === {place!r}")
    await page.until("history.state.kept?.said !== undefined")
    await page.reload()
    await page.until(f"{read} === {place!r}")
    await page.go(-1)
    await page.until(f"{TOP_RUN} === {left!r}")
