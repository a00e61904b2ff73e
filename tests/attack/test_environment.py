"""An environment that is against it: no home folder, variables of somebody else, a system without another thread."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.test_record import events, steps
from tests.support import serving
from tracewatch.client.api import Api
from tracewatch.settings import Settings

pytestmark = pytest.mark.anyio

# As in a container that runs as a user id without a name
NOBODY = """
import os, pwd, sys
os.environ.pop("HOME", None); os.environ.pop("XDG_STATE_HOME", None)
def getpwuid(uid): raise KeyError(uid)
pwd.getpwuid = getpwuid
"""
SERVICE = {  # of Kubernetes, for a Service that is named tracewatch
    "TRACEWATCH_SERVICE_HOST": "10.0.0.1",
    "TRACEWATCH_SERVICE_PORT": "8400",
    "TRACEWATCH_PORT": "tcp://10.0.0.1:8400",
    "TRACEWATCH_PORT_8400_TCP": "tcp://10.0.0.1:8400",
    "TRACEWATCH_PORT_8400_TCP_PORT": "8400",
}
RECORD = """
import tracewatch
with tracewatch.trace("run", trace_id="t") as t:
    t.event("step", n=1)
"""
TWO_TRACES = RECORD + "with tracewatch.trace('another', trace_id='u') as u: u.event('step', n=1)\n"
COMMAND = "import sys; from tracewatch.cli import main; sys.argv = ['tracewatch', *sys.argv[1:]]; main()"


def run(code: str, *args: str, cwd: Path, **env: str) -> tuple[int, str]:
    """Run a program; its exit code and what it said."""
    command = [sys.executable, "-c", code, *args]
    ran = subprocess.run(command, env={**os.environ, **env}, cwd=cwd, capture_output=True, text=True, timeout=60)
    return ran.returncode, ran.stdout + ran.stderr


async def test_no_home_records_and_says_once_that_there_is_no_spool(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code, said = await asyncio.to_thread(run, NOBODY + TWO_TRACES, cwd=tmp_path, TRACEWATCH_URL=server.url)
        assert (code, said.count("\n")) == (0, 1) and "no place for a spool" in said
        assert await steps(server.url, "t") == await steps(server.url, "u") == [1]


def test_no_home_and_no_server(tmp_path: Path) -> None:
    gone = {"TRACEWATCH_URL": "http://127.0.0.1:1", "TRACEWATCH_FLUSH_S": "0.1"}
    code, said = run(NOBODY + RECORD, cwd=tmp_path, **gone)
    assert code == 0
    assert "Traceback" not in said and "2 are lost" in said


async def test_commands_need_no_home(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code, said = await asyncio.to_thread(run, NOBODY + COMMAND, "ls", cwd=tmp_path, TRACEWATCH_URL=server.url)
        assert code == 0 and "no trace to list" in said
    code, said = run(NOBODY + COMMAND, "serve", "--port", "none", cwd=tmp_path)
    assert (code, said) == (2, "tracewatch: port: 'none' is not a whole number from 0 to 65535\n")
    assert Settings.from_env({"HOME": "/home/ada"}).spool_dir  # and with one there is a spool


async def test_the_variables_of_a_kubernetes_service(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        env = SERVICE | {"TRACEWATCH_URL": server.url}
        assert await asyncio.to_thread(run, RECORD, cwd=tmp_path, **env) == (0, "")
        assert await steps(server.url, "t") == [1]
        code, said = await asyncio.to_thread(run, COMMAND, "ls", cwd=tmp_path, **env)
        assert code == 0 and "run" in said
    code, said = run(COMMAND, "token", "create", "--scope", "write", "--db", "t.db", cwd=tmp_path, **SERVICE)
    assert code == 0 and said
    code, said = run(COMMAND, "serve", cwd=tmp_path, **SERVICE)
    assert code == 2
    assert said.startswith("tracewatch: TRACEWATCH_PORT: 'tcp://10.0.0.1:8400' is not a whole number from 0 to 65535")
    assert "Kubernetes" in said and "enableServiceLinks: false" in said


async def test_a_variable_that_a_recorder_cant_use_is_said_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        env = {"TRACEWATCH_URL": f"{server.url}\n", "TRACEWATCH_FLUSH_S": "soon", "TRACEWATCH_TOKEN": "two words"}
        code, said = await asyncio.to_thread(run, TWO_TRACES, cwd=tmp_path, **env)
        assert (code, said.count("\n"), said.count("TRACEWATCH_FLUSH_S: 'soon' is not")) == (0, 2, 1)
        assert said.count("TRACEWATCH_TOKEN: ") == 1 and "two words" not in said
        assert await steps(server.url, "t") == await steps(server.url, "u") == [1]


def test_an_address_in_the_environment_that_is_none(tmp_path: Path) -> None:
    code, said = run(RECORD + "print(t.url)", cwd=tmp_path, TRACEWATCH_URL="nonsense", TRACEWATCH_FLUSH_S="0")
    assert code == 0
    assert "TRACEWATCH_URL: 'nonsense' is not an address" in said and "http://127.0.0.1:8400" in said
    code, said = run(COMMAND, "ls", cwd=tmp_path, TRACEWATCH_URL="nonsense")  # a person can mend it
    assert code == 2 and said.startswith("tracewatch: TRACEWATCH_URL: 'nonsense' is not an address")


@pytest.mark.parametrize("token", ["tw_x\n", " tw_x\r\n"])
def test_a_token_from_a_file_ends_with_a_newline(token: str) -> None:
    assert Settings.from_env({"HOME": "/", "TRACEWATCH_TOKEN": token}).token == "tw_x"
    assert Settings.from_env({"HOME": "/", "TRACEWATCH_TOKEN": "\n"}).token == ""
    assert Settings.from_env({"HOME": "/"}, token=token).token == "tw_x"


THREADS = """
import logging, os, sys, threading
import tracewatch
start, failures = threading.Thread.start, 0
def refuse(self):
    global failures
    if self.name.startswith("tracewatch"):
        failures += 1
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = refuse
t = tracewatch.trace("run", trace_id="t")
while failures < 3:  # each half a second
    t.event("before")
threading.Thread.start = start
t.event("step", n=1)
while not t.flush(0.1):
    t.event("after")
t.complete()
"""


async def test_a_thread_that_cant_start_is_tried_again(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code, said = await asyncio.to_thread(run, THREADS, cwd=tmp_path, TRACEWATCH_URL=server.url)
        assert (code, said.count("\n"), said.count("can't start")) == (0, 1, 2), said
        assert await steps(server.url, "t") == [1]


async def test_a_thread_that_never_starts_leaves_a_spool(tmp_path: Path) -> None:
    spool = str(tmp_path / "spool")
    async with serving(tmp_path / "t.db") as server:
        env = {"TRACEWATCH_URL": server.url, "TRACEWATCH_SPOOL_DIR": spool}
        code = THREADS.split("t = tracewatch")[0] + RECORD
        assert (await asyncio.to_thread(run, code, cwd=tmp_path, **env))[0] == 0
        code = "import tracewatch\nu = tracewatch.trace('u')\nwith u: u.event('x')\n"
        code += "import os, sys\n"  # os.walk: folders go while one looks
        code += "while any(n.endswith('.spool') for *_, ns in os.walk(sys.argv[1]) for n in ns): u.flush(0.01)\n"
        assert (await asyncio.to_thread(run, code, spool, cwd=tmp_path, **env))[0] == 0
        assert await steps(server.url, "t") == [1]


TRIO = """
import sys
import trio, tracewatch
async def main():
    async with tracewatch.trace("on trio", trace_id="t") as t:
        with trio.move_on_after(0.05):
            async with t.sub_trace("child", trace_id="child"):
                await trio.sleep_forever()
        with trio.move_on_after(0.05) as scope:
            await t.cancelled.wait()
        assert scope.cancelled_caught
        try:
            await t.aask("Go?", timeout_s=0.05)
        except TimeoutError:
            t.event("step", n=1)
        assert await t.aflush(30)
trio.run(main)
"""


async def test_an_agent_on_trio(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        assert await asyncio.to_thread(run, TRIO, cwd=tmp_path, TRACEWATCH_URL=server.url) == (0, "")
        assert await steps(server.url, "t") == [1]
        api = Api(server.url)
        ended = [(await asyncio.to_thread(api.trace, one))["trace"]["status"] for one in ("t", "child")]
        assert ended == ["completed", "stopped"]


ALARMS = """
import random, signal, sys, time
import tracewatch
def ring(*_): raise TimeoutError("the agent's")
signal.signal(signal.SIGALRM, ring)
returned, rung, n = [], 0, 0
t = tracewatch.trace("run", trace_id="t")
with t:
    t.event("begin")
    while rung < 1000:
        n += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 2e-4))
            t.event("step", n=n)
            returned.append(n)
            if n % 3 == 0:
                with t.goal("g"), t.message("assistant") as m:
                    m.stream("x")
            while True:
                pass
        except TimeoutError:
            rung += 1
    assert t.flush(60) and not t.pending
print(*returned)
"""


async def test_timeouts_by_sigalrm_in_the_recorders_own_code(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        code, said = await asyncio.to_thread(run, ALARMS, cwd=tmp_path, TRACEWATCH_URL=server.url)
        assert code == 0, said
        recorded, returned = await steps(server.url, "t"), [int(n) for n in said.split()]
        assert len(recorded) == len(set(recorded)) and recorded == sorted(recorded)
        assert set(returned) <= set(recorded) and len(returned) > 100
        assert await steps(server.url, "t", "recorder_refused") == []
        trace = (await asyncio.to_thread(Api(server.url).trace, "t"))["trace"]
        assert trace["status"] == "completed"


DESCRIPTORS = """
import os, resource, time
from tracewatch import trace
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True: taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError: pass
with trace("run", trace_id="t") as t:
    for n in range(3):
        t.event("step", n=n)
        time.sleep(0.3)
    for one in taken: os.close(one)
    while not t.flush(0.5): t.event("more")
"""


@pytest.mark.parametrize("direct", [False, True], ids=["server", "file"])
async def test_no_descriptors_left_for_a_while(tmp_path: Path, direct: bool) -> None:
    async with serving(tmp_path / "t.db") as server:
        url = f"sqlite:///{tmp_path}/t.db" if direct else server.url
        code, said = await asyncio.to_thread(run, DESCRIPTORS, cwd=tmp_path, TRACEWATCH_URL=url)
        assert code == 0 and "Traceback" not in said and "Exception ignored" not in said, said
        assert await steps(server.url, "t") == [0, 1, 2]


PROCESSES = """
import os, resource, threading, time
import tracewatch.client.link
from tracewatch import trace
os.setgid(54321); os.setuid(54321)
most = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (0, most[1]))
try:
    threading.Thread(target=print).start()
    raise SystemExit("a thread has started")
except RuntimeError: pass
with trace("run", trace_id="t") as t:
    for n in range(3): t.event("step", n=n)
    assert not t.flush(0.1)
    resource.setrlimit(resource.RLIMIT_NPROC, most)
    while not t.flush(0.5): t.event("more")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become a user that has no other process")
async def test_the_system_lets_no_thread_start_for_a_while(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        env = {"TRACEWATCH_URL": server.url, "TRACEWATCH_SPOOL_DIR": ""}
        code, said = await asyncio.to_thread(run, PROCESSES, cwd=tmp_path, **env)
        assert code == 0 and said.count("can't start") == 2, said
        assert await steps(server.url, "t") == [0, 1, 2]


IN_A_STREAM = """
import os, sys
import tracewatch
with tracewatch.trace("run", trace_id="t") as t:
    with t.goal("g", id="g"), t.message("assistant") as m:
        for word in ("one ", "two ", "three "): m.stream(word)
        child = os.fork()
        if not child:
            t.event("step", n=1)
            sys.exit()  # through all blocks of the parent
        assert os.waitpid(child, 0)[1] == 0
        m.stream("four")
    t.event("step", n=2)
"""


async def test_a_fork_inside_a_stream(tmp_path: Path) -> None:
    async with serving(tmp_path / "t.db") as server:
        assert await asyncio.to_thread(run, IN_A_STREAM, cwd=tmp_path, TRACEWATCH_URL=server.url) == (0, "")
        found = await events(server.url, "t")
        assert "".join(event.get("append", "") for event in found) == "one two three four"
        assert [event["event"] for event in found].count("trace_completed") == 1
        assert found[-1]["event"] == "trace_completed"
        ends = [event for event in found if event.get("patch", {}).get("status") == "completed"]
        assert len(ends) == 1 and sorted(await steps(server.url, "t")) == [1, 2]


FORKS = """
import os, sys
import tracewatch
url = f"sqlite:///{sys.argv[1]}"
with tracewatch.trace("parent", trace_id="t", url=url) as t:
    if sys.argv[2] == "open": assert t.flush(60)
    children = []
    for n in range(10):
        child = os.fork()
        if not child:
            with tracewatch.trace("child", trace_id=f"c{n}", url=url) as c:
                c.event("step", n=n)
            os._exit(not c.flush(60))
        children.append(child)
        t.event("step", n=n)
    assert not any(os.waitpid(child, 0)[1] for child in children)
"""


@pytest.mark.parametrize("when", ["at once", "open"])
async def test_forks_while_a_file_is_recorded_into(tmp_path: Path, when: str) -> None:
    """Its children inherit no lock of SQLite's and of no module that is being imported: each of them records."""
    db = tmp_path / "t.db"
    assert await asyncio.to_thread(run, FORKS, str(db), when, cwd=tmp_path) == (0, "")
    async with serving(db) as server:
        assert await steps(server.url, "t") == list(range(10))
        assert [await steps(server.url, f"c{n}") for n in range(10)] == [[n] for n in range(10)]


def test_the_random_numbers_of_an_agent_stay_as_they_are(tmp_path: Path) -> None:
    code = RECORD.replace("import tracewatch", "import random, time, tracewatch\nrandom.seed(1)")
    code += "time.sleep(1.5)  # tries to reach the server wait for random times\nprint(random.random())\n"
    _, said = run(code, cwd=tmp_path, TRACEWATCH_URL="http://127.0.0.1:1", TRACEWATCH_FLUSH_S="0")
    assert said.startswith(f"{random.Random(1).random()}\n")
