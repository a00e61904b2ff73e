"""One Chromium for all tests, a server for each module, and a page for each test.

Rule 1: an error in the page's scripts, or a request to anything but the server, fails the test.
Rule 2: a test waits for something in the page; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Page, Playwright, async_playwright, expect

from tests.support import ServerProcess
from tracewatch.server.page import web_dir

ARGUMENTS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LATER = (
    "inspector",
    "rolldown",  # what some of the others stand on
    "axis",
    "panel",
    "question",
    "transcript",
    "export",
    "content",
    "prompt",
    "search",
    "waterfall",
)  # what a page loads after its first rows
expect.set_options(timeout=15_000)


async def launched(playwright: Playwright, *more: str) -> Browser:
    """A Chromium: TRACEWATCH_CHROMIUM, Debian's, or the one that ``playwright install`` brought; skips without one."""
    if not (web_dir() / "index.html").is_file():
        pytest.skip("the viewer is not built: python web/node.py build")
    named = os.environ.get("TRACEWATCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    arguments = [*ARGUMENTS, *more, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    try:
        return await playwright.chromium.launch(executable_path=named, args=arguments)
    except Error as error:
        assert not os.environ.get("CI"), error.message
        pytest.skip(f"no Chromium (apt install chromium, or playwright install chromium): {error.message[:80]}")


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests."""
    async with async_playwright() as playwright:
        started = await launched(playwright)
        yield started
        await started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that may be killed and started again."""
    with ServerProcess(tmp_path_factory.mktemp("browser") / "log.db") as started:
        yield started


class Faults:
    """What went wrong in a page."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        self.later = set(LATER)
        self.loaded = asyncio.Event()
        page.on("requestfinished", lambda request: self._loaded(request.url))
        self.allowed: tuple[str, ...] = ()  # parts of messages that a test expects
        page.on("pageerror", lambda error: self.found.append(f"{error.message}\n{error.stack}"))
        page.on("console", self._said)
        page.on("request", lambda request: self._asked(request.url))
        page.on("dialog", lambda dialog: self.found.append(f"dialog: {dialog.message}"))

    def _said(self, message: ConsoleMessage) -> None:
        # A test that ends its server does so while the page may still load what it shows later
        later = "net::ERR_" in message.text and "/static/" in message.location.get("url", "")
        if message.type == "error" and not later:
            self.found.append(message.text)

    def _loaded(self, url: str) -> None:
        self.later.discard(url.rsplit("/", 1)[-1].split("-")[0])
        if not self.later:
            self.loaded.set()

    def _asked(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "file://", "blob:http://127.0.0.1:", "blob:null/")):
            self.found.append(f"request: {url}")

    def left(self) -> list[str]:
        """Those that no test expects."""
        return [fault for fault in self.found if not any(part in fault for part in self.allowed)]


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page of its own, 1280 × 800."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    opened = await context.new_page()
    faults = Faults(opened)
    opened.faults = faults  # type: ignore[attr-defined]
    yield opened
    await opened.unroute_all(behavior="ignoreErrors")  # a request still under way is let go of with the page
    await context.close()
    assert faults.left() == []


def allow(page: Page, *parts: str) -> None:
    """Errors with one of ``parts`` in them belong to what the test does."""
    page.faults.allowed += parts  # type: ignore[attr-defined]


async def all_loaded(page: Page) -> None:
    """The page has loaded what its first rows do not need, too."""
    faults: Faults = page.faults  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        await faults.loaded.wait()
    faults.loaded.clear()  # for the next page
    faults.later = set(LATER)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Where an export is saved."""
    return tmp_path / "run.html"
