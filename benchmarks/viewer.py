"""viewer: the page in a real Chromium: its size, the time until a long trace can be read, a fast run, an idle page, and
a list of ten thousand traces.

Rule 1: the page measures itself; the browser, the server and the recorder share the machine.
Rule 2: what scrolling takes is said for a thousand rows that went by: a page that takes back what was scrolled does
        less in as many frames.
Rule 3: the slowest frame is the median of the slowest frames of all rounds, so that one hiccup of the machine does not
        count; each round's is printed. Beside it stands the longest task of the page's thread in processor time, which
        does not grow on a busy machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import orjson
from playwright.sync_api import CDPSession, Error, Page, sync_playwright

from tracewatch.model.events import validate_trace

from .append import opened
from .harness import Bench, Server, check

WEB = Path(__file__).resolve().parents[1] / "tracewatch" / "web"
ARGUMENTS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--js-flags=--expose-gc"]
TEXT = (
    "The session cookie is **never** set, because `login()` returns too early.\n\n- first the log\n- then the test\n\n"
)
RATE = 500  # events a second
FRAMES = """async ([selector, steps, by]) => {
  const box = document.querySelector(selector), frames = [];
  let last = performance.now();
  for (let i = 0; i < steps; i++) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last); last = now;
    box.scrollTop += by;
  }
  return frames.slice(2).sort((a, b) => a - b);
}"""
TYPED = """async words => { // how long a frame takes in which a filter is typed, letter by letter
  const input = document.querySelector('.filter'), frames = [];
  for (let i = 1; i <= words.length; i++) {
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    input.value = words.slice(0, i);
    input.dispatchEvent(new InputEvent('input', {bubbles: true}));
    await new Promise(requestAnimationFrame);
    await new Promise(done => setTimeout(done, 0));
    frames.push(performance.now() - start);
  }
  return frames.sort((a, b) => a - b);
}"""
ZOOMED = """async () => { // the frames of a zoom in and out again
  const axis = document.querySelector('.axis'), { left, top, width } = axis.getBoundingClientRect(), frames = [];
  let last = performance.now();
  for (let i = 0; i < 40; i++) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last); last = now;
    axis.dispatchEvent(new WheelEvent('wheel', { deltaY: i < 20 ? -120 : 120, clientX: left + width * 0.7,
      clientY: top + 5, bubbles: true, cancelable: true }));
  }
  return frames.slice(2).sort((a, b) => a - b);
}"""
FOLDED = """async () => { // from the press of a key to the next frame
  const start = performance.now();
  [...document.querySelectorAll('.waterfall .panehead button')].find(one => /all$/.test(one.textContent)).click();
  await new Promise(requestAnimationFrame);
  await new Promise(done => setTimeout(done, 0));
  return [performance.now() - start];
}"""
COUNT = """() => { const count = window.counted = {frames: 0, timers: 0};
  for (const [name, what] of [['requestAnimationFrame', 'frames'], ['setTimeout', 'timers']]) {
    const real = window[name].bind(window);
    window[name] = (...of) => { count[what]++; return real(...of) } } }"""
TOP = """() => { // the place in the list of the first row in view
  const top = document.querySelector('.said').getBoundingClientRect().top;
  const rows = [...document.querySelectorAll('.said [role=listitem]')];
  return Number(rows.find(row => row.getBoundingClientRect().bottom > top).getAttribute('aria-posinset')) }"""
DELAY = """async () => { const at = performance.now();
  await new Promise(done => setTimeout(done, 0)); return performance.now() - at }"""


def events_of(goals: int, each: int) -> list[dict[str, Any]]:
    """Events of goals in families of ten, each with messages, tool calls and updates of both."""
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
    """A log with the trace ``long``, and two empty ones, ``fast`` and ``idle``."""
    async with opened(db, "long", "fast", "idle") as log:
        for first in range(0, len(events), 1000):
            await log.append("long", events[first : first + 1000])
        await log.append("idle", [*events[:300], {"event": "trace_completed", "status": "completed"}])


async def fill_list(db: Path, traces: int) -> None:
    """A log with many traces, a tenth of them sub-traces."""
    async with opened(db) as log:
        for first in range(0, traces, 500):
            specs = [
                {"trace_id": f"t{n}", "task": f"Fix bug {n}", "agent_type": f"agent{n % 7}"}
                | ({"parent_trace_id": f"t{n - n % 10}"} if n % 10 == 9 else {})
                for n in range(first, min(traces, first + 500))
            ]
            for sort in (False, True):  # parents first
                made = [validate_trace(spec) for spec in specs if ("parent_trace_id" in spec) is sort]
                await asyncio.gather(*(log.create_trace(spec) for spec in made))


def slowest(bench: Bench, label: str, rounds: list[list[float]], at_most: float) -> None:
    """Report each round's slowest frame, their median, and the median of all frames."""
    frames = sorted(frame for one in rounds for frame in one)
    bench.report.note(f"{label}: {len(frames)} frames, median {frames[len(frames) // 2]:.1f} ms")
    bench.report.absolute(f"{label}, the slowest of each round", [one[-1] for one in rounds], "ms", at_most=at_most)


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A page of a Chromium whose frames and memory can be measured."""
    named = os.environ.get("TRACEWATCH_CHROMIUM") or shutil.which("chromium")
    arguments = [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else ARGUMENTS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=named, args=arguments)
        yield browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True).new_page()
        browser.close()


def opening(bench: Bench, page: Page, url: str, events: int) -> None:
    """Measure the time from the request of the page to readable rows and a live header."""
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
    slowest(
        bench,
        "scrolling up 300 px a frame",
        [page.evaluate(FRAMES, [".said", bench.pick(200, 30), -300]) for _ in range(bench.pick(7, 2))],
        50,
    )
    before = page.evaluate(TOP)
    spent = longest_task(bench, page, "scrolling", lambda: page.evaluate(FRAMES, [".said", bench.pick(300, 30), -300]))
    rows = before - page.evaluate(TOP)
    bench.report.note(f"{rows:,} rows went by, {spent / rows * 1e3:.2f} s of processor time for a thousand")


def longest_task(bench: Bench, page: Page, label: str, run: Callable[[], object]) -> float:
    """Report the longest task of the page's main thread while ``run`` runs, in processor time; return the sum, in s."""
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
    run()
    events = orjson.loads(browser.stop_tracing())["traceEvents"]
    main = {
        (one["pid"], one["tid"])
        for one in events
        if one.get("name") == "thread_name" and one["args"].get("name") == "CrRendererMain"
    }
    tasks = [
        one["tdur"] / 1000
        for one in events
        if "tdur" in one and "RunTask" in one["name"] and (one["pid"], one["tid"]) in main
    ]
    bench.report.absolute(f"{label}, the longest task in processor time", [max(tasks)], "ms", at_most=50)
    bench.report.note(f"{sum(tasks) / 1000:.2f} s of processor time in {len(tasks)} tasks")
    return float(sum(tasks)) / 1000


def far_back(bench: Bench, page: Page, url: str) -> None:
    """Measure the time from following a link to an early event until the event is visible."""
    for name, link in (("an event", "event=444"), ("a message", "message=xm3.3"), ("a goal", "goal=g3")):
        taken = []
        for _ in range(bench.pick(5, 2)):
            start = time.perf_counter()
            page.goto(f"{url}/traces/long?{link}", wait_until="commit")
            page.wait_for_selector(".said .row.hit" if name != "a goal" else ".said .row.text")
            taken.append(time.perf_counter() - start)
        bench.report.absolute(f"opening a link to {name} at its beginning", taken, "s", at_most=1.5)
    page.goto("about:blank")


def waterfall(bench: Bench, page: Page, url: str, events: int) -> None:
    """Measure the waterfall of a long run: until it can be used, scrolled, zoomed, and while a run is at work."""
    taken = []
    for _ in range(bench.pick(5, 2)):
        start = time.perf_counter()
        page.goto(f"{url}/traces/long?view=waterfall", wait_until="commit")
        page.wait_for_selector(".fallrow .bar")
        page.wait_for_selector(".pill.live")
        taken.append(time.perf_counter() - start)
    bench.report.absolute(f"the waterfall of {events:,} events: the first rows", taken, "s", at_most=1.5)
    page.wait_for_function("Number(document.querySelector('.fallrow.is-tool')?.ariaSetSize) > 30", timeout=60_000)
    page.wait_for_timeout(3000)  # until all is read and nothing is drawn any more
    rounds = bench.pick(7, 2)
    scrolled = [page.evaluate(FRAMES, [".falling", bench.pick(200, 30), 300]) for _ in range(rounds)]
    slowest(bench, "scrolling it 300 px a frame", scrolled, 50)
    longest_task(bench, page, "scrolling it", lambda: page.evaluate(FRAMES, [".falling", bench.pick(200, 30), -300]))
    slowest(bench, "zooming it, a turn of the wheel a frame", [page.evaluate(ZOOMED) for _ in range(rounds)], 50)
    longest_task(bench, page, "zooming it", lambda: page.evaluate(ZOOMED))
    folded = []
    for _ in range(2 * rounds):
        folded += page.evaluate(FOLDED)
    bench.report.absolute("folding all of it, or opening it", folded, "ms", at_most=100)
    longest_task(bench, page, "folding all of it and opening it", lambda: [page.evaluate(FOLDED) for _ in range(4)])
    page.goto("about:blank")


def heap_mb(page: Page) -> float:
    """The page's heap after a full collection."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    used = float(devtools.send("Runtime.getHeapUsage")["usedSize"]) / 1e6
    devtools.detach()
    return used


def processor_s(page: Page) -> float:
    """The processor time of all processes of the browser, because other ones than the page's do the drawing."""
    browser = page.context.browser
    assert browser is not None
    devtools = browser.new_browser_cdp_session()
    processes = devtools.send("SystemInfo.getProcessInfo")["processInfo"]
    devtools.detach()
    return float(sum(one["cpuTime"] for one in processes))


def idle(bench: Bench, page: Page, url: str) -> None:
    """Measure an idle page."""
    seconds = bench.pick(10, 3)
    for name, path in (("a run that has ended", "idle"), ("a run that says nothing", "fast"), ("the list", "")):
        page.goto(f"{url}/traces/{path}" if path else url)
        page.wait_for_selector(".pill.live, .pill.ended")
        page.wait_for_function("!document.querySelector('.history')?.textContent")
        time.sleep(2)
        page.evaluate(COUNT)
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

        def busy(devtools: CDPSession = devtools) -> float:
            metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
            return float(metrics["TaskDuration"])

        before, whole, start = busy(), processor_s(page), time.perf_counter()
        time.sleep(seconds)
        lasted = time.perf_counter() - start
        share, all_of_it = (busy() - before) / lasted * 100, (processor_s(page) - whole) / lasted * 100
        counted = page.evaluate("window.counted")
        bench.report.absolute(f"idle, {name}: processor time of the page's thread", [share], "%", at_most=2)
        bench.report.note(
            f"{all_of_it:.1f} % of a core in all processes of Chromium; "
            f"{counted['frames'] / seconds:.1f} frames and {counted['timers'] / seconds:.1f} timers asked for a second"
        )
        devtools.detach()


def ten_thousand(bench: Bench, page: Page, url: str, traces: int) -> None:
    """Measure the list of many traces: until all are loaded, while it is scrolled, while it is filtered."""
    start = time.perf_counter()
    page.goto(url)
    page.wait_for_selector(".tbody .tr")
    first = time.perf_counter() - start
    flat = traces - traces // 10
    page.wait_for_selector(f".table[aria-rowcount='{flat}']")
    bench.report.absolute(f"the list of {traces:,} traces: the first rows", [first], "s", at_most=1.5)
    bench.report.note(f"all of them after {time.perf_counter() - start:.1f} s")
    rounds = bench.pick(5, 2)
    scrolled = [page.evaluate(FRAMES, [".tbody", bench.pick(120, 30), 500]) for _ in range(rounds)]
    slowest(bench, "scrolling it 500 px a frame", scrolled, 50)
    words = "status:running agent:agent3 bug 77"
    longest_task(bench, page, "scrolling it", lambda: page.evaluate(FRAMES, [".tbody", bench.pick(200, 30), -500]))
    slowest(bench, "filtering it, a letter at a time", [page.evaluate(TYPED, words) for _ in range(rounds)], 100)
    longest_task(bench, page, "filtering it", lambda: page.evaluate(TYPED, words))
    bench.report.note(f"{heap_mb(page):.0f} MB of heap")


def record(port: int, seconds: float) -> None:
    """Record RATE events a second into ``fast``: messages that stream."""
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
    """Measure the page's frames while many events arrive, and the memory that it keeps."""
    seconds = bench.pick(60, 5)
    page.goto(f"http://127.0.0.1:{server.port}/traces/fast")
    page.wait_for_selector(".pill.live")
    before = heap_mb(page)
    feeder = threading.Thread(target=record, args=(server.port, seconds))
    feeder.start()
    delays = []
    while feeder.is_alive():
        delays.append(page.evaluate(DELAY))
        time.sleep(0.05)
    bench.report.absolute(
        f"{RATE} events a second for {seconds} s: the longest delay", [max(delays)], "ms", at_most=100
    )
    delays.sort()
    bench.report.note(f"the median of {len(delays)} is {delays[len(delays) // 2]:.1f} ms")
    bench.report.note(f"{before:.0f} MB of heap before, {heap_mb(page):.0f} MB after it, both after a full collection")


def run(bench: Bench) -> None:
    """The whole benchmark."""
    bench.report.title("viewer: the page in Chromium")
    if not (WEB / "index.html").is_file():
        bench.report.note("the viewer is not built: python web/node.py build")
        return
    scripts = list(WEB.glob("index-*.js"))
    size = sum(len(gzip.compress(path.read_bytes())) for path in scripts) / 1000
    bench.report.absolute("script of the first load, gzipped", [size], "kB", at_most=75)
    db = bench.folder / "log.db"
    events = events_of(bench.pick(500, 50), 33)
    anyio.run(fill, db, events)
    many, traces = bench.folder / "many.db", bench.pick(10_000, 1_000)
    anyio.run(fill_list, many, traces)
    try:
        with chromium() as page:
            with Server(db) as server:
                url = f"http://127.0.0.1:{server.port}"
                opening(bench, page, url, len(events))
                far_back(bench, page, url)
                waterfall(bench, page, url, len(events))
                idle(bench, page, url)
                fast(bench, page, server)
            with Server(many) as server:
                ten_thousand(bench, page, f"http://127.0.0.1:{server.port}", traces)
            bench.report.note(f"load {os.getloadavg()[0]:.1f} at the end")
    except Error as error:
        bench.report.note(f"no Chromium that works: {error.message.splitlines()[0]}")
