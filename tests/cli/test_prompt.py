"""Answering questions at a terminal: a real pseudo-terminal on which a user types."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cli.conftest import done, record, thought, wait_until
from tests.cli.test_control import question
from tests.support import DEADLINE_S, ServerProcess
from tracewatch.client.api import Api

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """A command with a terminal in front of it."""

    def __init__(self, *args: str, url: str, program: tuple[str, ...] = (), **environ: str) -> None:
        """``args`` of tracewatch, or of another ``program``. A variable that is "" is not there."""
        self.fd, inner = pty.openpty()
        self.seen = ""
        environ = {"COLUMNS": "100", "NO_COLOR": "1"} | environ
        self.process = subprocess.Popen(
            [*(program or (sys.executable, "-m", "tracewatch")), *args],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={
                key: value
                for key, value in {**os.environ, "TRACEWATCH_URL": url, "TERM": "xterm", **environ}.items()
                if value
            },
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(inner)

    def until(self, words: str) -> str:
        """Read until this is on the screen; what came up to it."""
        end = time.monotonic() + DEADLINE_S
        while words not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode()
                except OSError:  # it has ended
                    assert words in self.seen, self.seen
        before, self.seen = self.seen.split(words, 1)
        return before

    def type(self, words: str) -> None:
        os.write(self.fd, words.encode())

    def end(self) -> int:
        """Its exit code."""
        while True:
            try:
                if not (data := os.read(self.fd, 65536)):
                    break
                self.seen += data.decode()
            except OSError:
                break
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def terminal(server: ServerProcess) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def begin(*args: str, url: str = server.url, **options: Any) -> Terminal:
        started.append(Terminal(*args, url=url, **options))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        os.close(one.fd)


Begin = Callable[..., Terminal]


def values(api: Api, trace_id: str) -> list[Any]:
    events = [orjson.loads(body) for body in api.events(trace_id)]
    return [event["value"] for event in events if event["event"] == "input_provided"]


def test_a_question_is_answered_where_the_run_is_followed(terminal: Begin, api: Api) -> None:
    record(api, "t1", thought("first"))
    tail = terminal("tail", "t1")
    tail.until("first")
    api.append("t1", [question(options=["yes", "no"])])
    tail.until("answer (yes / no), Enter leaves it open> ")
    tail.type("perhaps\n")
    tail.until("this does not answer deploy")
    tail.until("Enter leaves it open> ")
    api.append("t1", [thought("goes on meanwhile")])
    tail.until("goes on meanwhile")
    tail.until("Enter leaves it open> ")
    tail.type("2\n")  # the second option
    tail.until("! answer")
    assert values(api, "t1") == ["no"]
    api.append("t1", [done()])
    assert tail.end() == 0
    assert "Enter leaves" not in tail.seen


def test_one_question_after_the_other_and_one_that_is_left_open(terminal: Begin, api: Api) -> None:
    record(api, "t2", question("a", "A?"), question("b", "B?"))
    tail = terminal("tail", "t2", "-n", "0")
    tail.until("answer, Enter leaves it open> ")
    tail.type("\n")
    tail.until("left open: tracewatch answer t2 a")
    api.append("t2", [thought("x")])
    tail.until("answer, Enter leaves it open> ")
    tail.type("for b\n")
    wait_until(lambda: values(api, "t2") == ["for b"])
    api.append("t2", [done()])
    assert tail.end() == 0


def test_what_somebody_else_answers_is_asked_no_more_and_old_typing_is_no_answer(terminal: Begin, api: Api) -> None:
    record(api, "t3", thought("first"))
    tail = terminal("tail", "t3")
    tail.until("first")
    tail.type("yes\n")  # to nobody
    api.append("t3", [question()])
    tail.until("Enter leaves it open> ")
    api.answer("t3", "deploy", "theirs", by="ann")
    tail.until("theirs (by ann)")
    api.append("t3", [done()])
    assert tail.end() == 0
    assert values(api, "t3") == ["theirs"]
    assert "Enter leaves" not in tail.seen


@pytest.mark.parametrize("option", ["--no-prompt", "--no-follow", "-ondjson"])
def test_nobody_is_asked_who_does_not_want_to_be(terminal: Begin, api: Api, option: str) -> None:
    trace_id = record(api, f"t4{option}".replace("--", "."), question())
    tail = terminal("tail", trace_id, option)
    tail.until("Deploy?")
    api.append(trace_id, [done()])
    assert tail.end() == 0
    assert "Enter leaves" not in tail.seen


def test_ctrl_c_at_the_prompt_leaves_the_run_alone(terminal: Begin, api: Api) -> None:
    record(api, "t5", question())
    tail = terminal("tail", "t5")
    tail.until("Enter leaves it open> ")
    tail.process.send_signal(signal.SIGINT)
    assert tail.end() == 130
    assert api.trace("t5")["trace"]["status"] == "waiting"


def test_the_prompt_is_there_again_after_ctrl_z_and_fg(terminal: Begin, api: Api) -> None:
    record(api, "t-fg", question())
    shell = terminal("--norc", "-i", program=("bash",), PS1="ready> ", COLUMNS="", HISTFILE="")
    shell.until("ready> ")
    shell.type(f"{sys.executable} -m tracewatch tail t-fg -n all\n")
    shell.until("Enter leaves it open> ")
    shell.type("\x1a")
    shell.until("Stopped")
    shell.type("fg\n")
    shell.until("Enter leaves it open> ")
    shell.type("yes\n")
    wait_until(lambda: values(api, "t-fg") == ["yes"])
    api.append("t-fg", [done()])
    shell.until("ready> ")
    shell.type("exit\n")
    assert shell.end() == 0
