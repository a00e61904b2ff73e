"""A Firefox of the system, driven over WebDriver BiDi: no driver is between, a WebSocket of its own is enough.

Playwright drives only Firefoxes that were built for it. What the tests here need is a page, its scripts, and input as a
person gives it: wheel, keys, and a finger. https://w3c.github.io/webdriver-bidi/ has the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect

from tests.support import DEADLINE_S

LISTENS = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")
PREFERENCES = """user_pref("remote.active-protocols", 1);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
"""


def found() -> str | None:
    """The Firefox to be driven, if there is one."""
    return os.environ.get("TRACEWATCH_FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")


class FirefoxPage:
    """One page of a Firefox."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._context = ""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command; its result. Raises AssertionError for a refusal."""
        self._number += 1
        await self._socket.send(orjson.dumps({"id": self._number, "method": method, "params": params}).decode())
        async with asyncio.timeout(DEADLINE_S):
            while (answer := orjson.loads(await self._socket.recv())).get("id") != self._number:
                pass  # an event
        assert answer["type"] == "success", f"{method}: {answer.get('message')}"
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, width: int, height: int) -> None:
        """Begin, with a viewport in px."""
        await self.call("session.new", capabilities={})
        self._context = (await self.call("browsingContext.create", type="tab"))["context"]
        viewport = {"width": width, "height": height}
        await self.call("browsingContext.setViewport", context=self._context, viewport=viewport)

    async def goto(self, url: str) -> None:
        """Load a page."""
        await self.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def go(self, by: int) -> None:
        """Back (-1) or forward (1)."""
        await self.call("browsingContext.traverseHistory", context=self._context, delta=by)

    async def reload(self) -> None:
        """Load the page again."""
        await self.call("browsingContext.reload", context=self._context, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, which may be a promise: a text, number, boolean or null."""
        answer = await self.call(
            "script.evaluate", expression=expression, target={"context": self._context}, awaitPromise=True
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true, looking again with each frame."""
        waiting = f"""new Promise((done, late) => {{ setTimeout(() => late(new Error('never')), {DEADLINE_S * 1000});
          const look = () => {{ let held = false; try {{ held = ({expression}) }} catch {{}}
            held ? done() : requestAnimationFrame(look) }};
          look() }})"""
        await self.evaluate(waiting)

    async def wheel(self, x: int, y: int, by: int, times: int = 1) -> None:
        """Turn the wheel, some px at a time."""
        turn = {"type": "scroll", "x": x, "y": y, "deltaX": 0, "deltaY": by}
        await self._act({"type": "wheel", "id": "wheel", "actions": [turn] * times})

    async def press(self, key: str) -> None:
        """Press a key and let go of it."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        await self._act({"type": "key", "id": "keys", "actions": actions})

    async def point(self, *steps: tuple[int, int], down: bool = False, kind: str = "mouse") -> None:
        """Move a mouse or finger from place to place; ``down``: pressed from the first to the last."""
        moves: list[dict[str, Any]] = [{"type": "pointerMove", "x": x, "y": y, "duration": 20} for x, y in steps]
        if down:
            moves = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        await self._act({"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": moves})

    async def _act(self, source: dict[str, Any]) -> None:
        await self.call("input.performActions", context=self._context, actions=[source])


@contextlib.asynccontextmanager
async def firefox(folder: Path, width: int = 1280, height: int = 800) -> AsyncIterator[FirefoxPage]:
    """A Firefox with a profile of its own in ``folder``, and a page in it."""
    program = found()
    assert program is not None
    profile = folder / "profile"
    profile.mkdir()
    (profile / "user.js").write_text(PREFERENCES)
    process = await asyncio.create_subprocess_exec(
        *(program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HOME": str(folder), "MOZ_CRASHREPORTER_DISABLE": "1"},
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (listens := LISTENS.search(line := await process.stderr.readline())):
                assert line, "Firefox ended before it listened"
        async with connect(f"{listens[1].decode()}/session", max_size=None, proxy=None) as socket:
            page = FirefoxPage(socket)
            await page.open(width, height)
            yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
