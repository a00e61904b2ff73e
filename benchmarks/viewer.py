"""viewer: the page in a real Chromium: what it loads, how soon a long trace can be read, what a fast run does to it.

Rule: what is measured is measured by the page itself; the browser, the server and the recorder share the machine.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import orjson
from playwright.sync_api import Error, Page, sync_playwright

from .append import opened
from .harness import Bench, Server, check

WEB = Path(__file__).resolve().parents[1] / "tracewatch" / "web"
ARGUMENTS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--js-flags=--expose-gc"]
TEXT = (
    "The session cookie is **never** set, because `login()` returns too early.\n\n- first the log\n- then the test\n\n"
)
RATE = 500  # events a second
FRAMES = """async ([selector, steps]) => {
  const box = document.querySelector(selector), frames = [];
  let last = performance.now();
  for (let i = 0; i < steps; i++) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last); last = now;
    box.scrollTop -= 300;
  }
  return frames.slice(2).sort((a, b) => a - b);
}"""
DELAY = """async () => { const at = performance.now();
  await new Promise(done => setTimeout(done, 0)); return performance.now() - at }"""


def events_of(goals: int, each: int) -> list[dict[str, Any]]:
    """Goals in families of ten, each with messages and tool calls and their updates."""
    events: list[dict[str, Any]] = []
    for number in range(goals):
        parent = {"parent_id": f"g{number - number % 10}"} if number % 10 else {}
        goal = {"id": f"g{number}", "description": f"Goal {number}", "status": "in_progress", **parent}
        events.append({"event": "goal_added", "goal": goal})
        for step in range(each):
            name = f"m{number}.{step}"
            if step % 3 == 2:
                said = {"role": "assistant", "content": TEXT * (1 + step % 4), "status": "complete", "tokens": 120}
                events.append({"event": "message_added", "message": {"message_id": f"x{name}", **said}})
                events += [{"event": "thought", "text": "hm"}, {"event": "thought", "text": "so"}]
                continue
            call = {"tool_name": "grep", "arguments": {"pattern": f"login {step}"}}
            message = {"message_id": f"x{name}", "role": "tool", "content": call, "status": "running"}
            result = {**call, "error": "no such file"} if step % 31 == 0 else {**call, "result": "a line\n" * 5}
            patch = {"content": result, "status": "complete", "duration_ms": 40}
            events += [{"event": "message_added", "message": message}, {"event": "output", "text": f"line {step}"}]
            events.append({"event": "message_updated", "message_id": f"x{name}", "patch": patch})
    return events


async def fill(db: Path, events: list[dict[str, Any]]) -> None:
    """A log with the trace ``long``, and an empty one, ``fast``."""
    async with opened(db, "long", "fast") as log:
        for first in range(0, len(events), 1000):
            await log.append("long", events[first : first + 1000])


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A page that may be measured from outside."""
    named = os.environ.get("TRACEWATCH_CHROMIUM") or shutil.which("chromium")
    arguments = [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else ARGUMENTS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=named, args=arguments)
        yield browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True).new_page()
        browser.close()


def opening(bench: Bench, page: Page, url: str, events: int) -> None:
    """From asking for the page to rows that can be read and a header that is live."""
    taken = []
    for _ in range(bench.pick(7, 2)):
        start = time.perf_counter()
        page.goto(f"{url}/traces/long", wait_until="commit")
        page.wait_for_selector(".said .row")
        page.wait_for_selector(".goal")
        page.wait_for_selector(".pill.live")
        taken.append(time.perf_counter() - start)
    page.wait_for_function("!document.querySelector('.history')?.textContent", timeout=60_000)
    check(f"{events:,} events" in page.inner_text(".facts"), "the page shows other events")
    bench.report.absolute(f"opening a trace of {events:,} events", taken, "s", at_most=1.5)
    frames: list[float] = page.evaluate(FRAMES, [".said", bench.pick(600, 60)])
    bench.report.note(f"scrolling up 300 px a frame: median {frames[len(frames) // 2]:.1f} ms")
    bench.report.absolute("scrolling it, the slowest of frames", [frames[-1]], "ms", at_most=50)


def record(port: int, seconds: float) -> None:
    """RATE events a second into ``fast``: messages that stream."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    start, sent = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        events: list[dict[str, Any]] = []
        for number in range(sent, sent + 50, 5):
            message = {"message_id": f"s{number}", "role": "assistant", "content": "", "status": "streaming"}
            update = {"event": "message_updated", "message_id": f"s{number}"}
            events += [{"event": "message_added", "message": message}]
            events += [{**update, "append": "some more words of it "}] * 3
            events += [{**update, "patch": {"status": "complete"}}]
        connection.request(
            "POST", "/api/traces/fast/events", orjson.dumps(events), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        check(answer.status == 200, f"an append answered {answer.status}: {answer.read()[:200]!r}")
        answer.read()
        sent += len(events)
        time.sleep(max(0.0, start + sent / RATE - time.monotonic()))
    connection.close()


def fast(bench: Bench, page: Page, server: Server) -> None:
    """How long the page takes to come round to something new while events rain, and what it keeps."""
    seconds = bench.pick(60, 5)
    page.goto(f"http://127.0.0.1:{server.port}/traces/fast")
    page.wait_for_selector(".pill.live")
    feeder = threading.Thread(target=record, args=(server.port, seconds))
    feeder.start()
    delays = []
    while feeder.is_alive():
        delays.append(page.evaluate(DELAY))
        time.sleep(0.05)
    page.evaluate("gc()")
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    bench.report.absolute(
        f"{RATE} events a second for {seconds} s: the longest delay", [max(delays)], "ms", at_most=100
    )
    bench.report.note(f"and {heap:.0f} MB of heap after it")


def run(bench: Bench) -> None:
    """The whole benchmark."""
    bench.report.title("viewer: the page in Chromium")
    if not (WEB / "index.html").is_file():
        bench.report.note("the viewer is not built: python web/node.py build")
        return
    scripts = list(WEB.glob("index-*.js"))
    size = sum(len(gzip.compress(path.read_bytes())) for path in scripts) / 1000
    bench.report.absolute("script of the first load, gzipped", [size], "kB", at_most=70)
    db = bench.folder / "log.db"
    events = events_of(bench.pick(500, 50), 33)
    anyio.run(fill, db, events)
    try:
        with Server(db) as server, chromium() as page:
            opening(bench, page, f"http://127.0.0.1:{server.port}", len(events))
            fast(bench, page, server)
    except Error as error:
        bench.report.note(f"no Chromium that works: {error.message.splitlines()[0]}")
