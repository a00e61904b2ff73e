"""Recording from the callbacks of frameworks: before a loop runs, in it, during its shutdown, and after it.

Each program runs with warnings as errors, prints nothing, exits with its own code, and has all its steps in the log.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.client.test_exit import run
from tests.client.test_record import spools, steps
from tests.support import serving

pytestmark = pytest.mark.anyio

BEFORE_AND_AFTER_A_LOOP = """
import asyncio
with t:
    t.event("step", n=1)
    async def main():
        with t.goal("in the loop"):
            t.event("step", n=2)
            await asyncio.sleep(0)
    asyncio.run(main())
    t.event("step", n=3)
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: t.event("step", n=4))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    t.event("step", n=5)
"""

WHILE_A_LOOP_SHUTS_DOWN = """
import asyncio
async def source():
    try:
        yield 1
        yield 2
    finally:
        t.event("step", n=4)
async def background():
    try:
        await asyncio.sleep(60)
    finally:
        t.event("step", n=3)
def at_work():
    threading.Event().wait(0.05)
    t.event("step", n=5)
async def main():
    t.event("step", n=1)
    held.append(source())
    async for _ in held[0]:
        break
    asyncio.create_task(background())
    await asyncio.sleep(0)
    asyncio.get_running_loop().run_in_executor(None, at_work)
    t.event("step", n=2)
held = []
asyncio.run(main())
"""

FROM_CALLBACKS = """
import asyncio, concurrent.futures, contextvars, signal
class Handler:
    def on_start(self, n): t.event("step", n=n)
    def __del__(self): t.event("step", n=5)
signal.signal(signal.SIGUSR1, lambda *_: t.event("step", n=3))
handler = Handler()
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(handler.on_start, 1).result()
    pool.submit(contextvars.copy_context().run, handler.on_start, 2).result()
os.kill(os.getpid(), signal.SIGUSR1)
async def main():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, handler.on_start, 4)
asyncio.run(main())
del handler
"""

WHEN_THE_PROCESS_ENDS = """
import atexit
atexit.register(lambda: t.event("step", n=3))
t.event("step", n=1)
atexit.register(lambda: t.event("step", n=2))
"""


@pytest.mark.parametrize(
    ("code", "last"),
    [(BEFORE_AND_AFTER_A_LOOP, 5), (WHILE_A_LOOP_SHUTS_DOWN, 5), (FROM_CALLBACKS, 5)],
    ids=["before and after", "while it shuts down", "from callbacks"],
)
@pytest.mark.parametrize("where", ["server", "file"])
async def test_from_wherever_it_is_called(tmp_path: Path, code: str, last: int, where: str) -> None:
    async with serving(tmp_path / "t.db") as server:
        url = server.url if where == "server" else f"sqlite:///{tmp_path}/t.db"
        assert await run(code, url, tmp_path / "spool") == (0, "")
        assert sorted(await steps(server.url, "t")) == list(range(1, last + 1))


@pytest.mark.parametrize("where", ["server", "file"])
async def test_what_is_said_after_the_last_moment_is_on_disk(tmp_path: Path, where: str) -> None:
    async with serving(tmp_path / "t.db") as server:
        url = server.url if where == "server" else f"sqlite:///{tmp_path}/t.db"
        assert await run(WHEN_THE_PROCESS_ENDS, url, tmp_path / "spool") == (0, "")
        assert spools(tmp_path / "spool")
        # The next recorder brings it.
        nothing_left = (
            "import pathlib\nt.event('x')\nwhile list(pathlib.Path(spool_dir).rglob('*.spool')): time.sleep(0.01)"
        )
        assert await run(nothing_left, url, tmp_path / "spool") == (0, "")
        assert sorted(await steps(server.url, "t")) == [1, 2, 3]


async def test_without_a_server_no_call_takes_long(tmp_path: Path) -> None:
    code = """
import asyncio
slowest = 0.0
async def main():
    global slowest
    with t, t.goal("g"):
        for n in range(2000):
            began = time.thread_time()
            t.event("step", n=n)
            slowest = max(slowest, time.thread_time() - began)
asyncio.run(main())
os._exit(0 if slowest < 0.5 else 1)
"""
    assert await run(code, "http://127.0.0.1:1", tmp_path / "spool") == (0, "")


async def test_a_cancel_in_a_framework_that_knows_nothing_of_it(tmp_path: Path) -> None:
    """A callback that raises Cancelled stops a loop that goes on after every Exception."""
    async with serving(tmp_path / "t.db") as server:
        code = """
def framework(callback):
    while True:
        try:
            callback()
        except Exception:
            pass
with t:
    print("begun", flush=True)
    framework(lambda: (t.raise_if_cancelled(), time.sleep(0.001)))
"""
        running = asyncio.create_task(run(code, server.url, tmp_path / "spool"))
        from tests.client.asked import polled, status
        from tracewatch.client.api import Api
        from tracewatch.client.errors import ApiError

        def cancelled() -> bool:
            try:
                return bool(Api(server.url).cancel("t")["status"])
            except ApiError:
                return False

        await polled(cancelled)
        exit_code, said = await running
        assert (exit_code, said.splitlines()[-1]) == (130, "tracewatch: cancelled")
        assert await status(server.url, "t") == "stopped"
