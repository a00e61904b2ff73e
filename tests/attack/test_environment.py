"""An environment that is against it: no home folder, variables of somebody else, a system without another thread."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.test_record import steps
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
        code += "import pathlib, sys\nwhile list(pathlib.Path(sys.argv[1]).rglob('*.spool')): u.flush(0.01)\n"
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
