"""The live goal tree: a terminal that is too small for it, another size, Ctrl-Z, and another history of the log."""

from __future__ import annotations

import fcntl
import io
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.tree import Tree

from tests.cli.conftest import done, record, wait_until
from tests.cli.events import stored
from tests.cli.test_prompt import Terminal, terminal
from tests.support import ServerProcess
from tracewatch.cli.live_tree import InSight
from tracewatch.cli.tree import TreeView, goal_tree
from tracewatch.client.api import Api
from tracewatch.model.frames import snapshot_values
from tracewatch.model.state import State, apply_into

__all__ = ["terminal"]  # a fixture


def goal(number: int, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {
        "event": "goal_added",
        "goal": {"id": f"g{number}", "description": f"Goal <{number}>", "status": status, **more},
    }


def drawn(tree: Tree, height: int, news: str = "") -> list[str]:
    """The rows of a screen."""
    console = Console(file=io.StringIO(), width=60, height=height, color_system=None)
    options = console.options.update(height=height)
    lines = console.render_lines(InSight(tree, news), options)
    return ["".join(part.text for part in line) for line in lines]


def test_the_steps_of_a_goal_are_one_line() -> None:
    folded = State("t", task="Fix it")
    for event, _ in stored(
        "t",
        {"event": "goal_added", "goal": {"id": "g", "description": "Find it", "status": "in_progress"}},
        *({"event": "step_added", "step": {"id": name, "name": name}} for name in ("plan", "retry")),
        {"event": "step_added", "step": {"name": "check", "error": "no"}},
        {"event": "step_added", "step": {"name": "outside", "goal_id": None, "status": "completed"}},
    ):
        apply_into(folded, event)
    frame = {**snapshot_values(folded, lease_alive=True)}
    rows = [row.strip() for row in drawn(goal_tree(TreeView.of(frame)), 10)]
    assert "3 steps: plan › retry  1 failed" in rows[2], rows
    assert "1 step" in rows[3], rows


@pytest.fixture(scope="module")
def view(server: ServerProcess) -> Callable[[int], TreeView]:
    """A run of 60 goals that works on one of them."""
    api = Api(server.url)

    def made(current: int) -> TreeView:
        trace_id = f"sixty-{current}"
        goals = [
            goal(n, "in_progress" if n == current else "pending" if n > current else "completed") for n in range(60)
        ]
        record(api, trace_id, *goals, task="Sixty goals")
        return TreeView.of(api.trace(trace_id))

    return made


@pytest.mark.parametrize("current", [0, 1, 9, 30, 58, 59])
def test_what_is_worked_on_is_in_sight(view: Callable[[int], TreeView], current: int) -> None:
    tree = goal_tree(view(current), width=60)
    for height in (2, 3, 5, 20, 60):
        rows = drawn(tree, height)
        assert len(rows) == height and "Sixty goals" in rows[0]
        assert [row for row in rows if f"<{current}>" in row], (height, rows)
    rows = drawn(tree, 20)
    numbers = [int(row.split("<")[1].split(">")[0]) for row in rows if "<" in row]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    for row, hidden in ((rows[1], numbers[0]), (rows[-1], 59 - numbers[-1])):
        assert (str(hidden) in row.split() and "⋮" in row) if hidden else "⋮" not in row
    assert [row for row in drawn(tree, 100) if row.strip()] == drawn(tree, 61)  # there is room for all of it
    assert drawn(tree, 5, "connection lost")[-1].rstrip() == "connection lost"


def test_an_open_question_is_what_is_waited_for(api: Api) -> None:
    asked = {"event": "input_requested", "question": "Really?", "goal_id": "g3"}
    record(
        api,
        "asks-far-up",
        *(goal(n) for n in range(3)),
        goal(3, "in_progress"),
        *(goal(n) for n in range(4, 60)),
        asked,
    )
    assert any("Really?" in row for row in drawn(goal_tree(TreeView.of(api.trace("asks-far-up")), width=60), 10))


def resize(terminal: Terminal, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


SHOWN, HIDDEN, OWN_SCREEN, SCREEN_BACK = "\x1b[?25h", "\x1b[?25l", "\x1b[?1049h", "\x1b[?1049l"


def test_ctrl_z_fg_and_another_size(terminal: Callable[..., Terminal], api: Api) -> None:
    record(api, "in-shell", *(goal(n) for n in range(30)), task="Thirty goals")
    shell = terminal("--norc", "-i", program=("bash",), PS1="ready> ", COLUMNS="", LINES="", HISTFILE="")
    resize(shell, 40, 100)
    shell.until("ready> ")
    shell.type(f"{sys.executable} -m tracewatch tail in-shell -o tree\n")
    assert HIDDEN in shell.until("Goal <29>")
    shell.type("\x1a")
    before = shell.until("Stopped")
    assert SHOWN in before and before.rindex(SHOWN) > before.find(HIDDEN) and SCREEN_BACK in before
    shell.type("fg\n")
    assert OWN_SCREEN in shell.until("Goal <29>")  # no event had to come for that
    resize(shell, 10, 50)
    shell.until("below")
    resize(shell, 40, 100)
    shell.until("Goal <29>")
    shell.type("\x1c")  # Ctrl-\ ends a process at once; this one gives the screen back first
    before = shell.until("ready> ")
    assert SCREEN_BACK in before and before.rindex(SHOWN) > before.rfind(HIDDEN)
    assert "Goal <29>" in before[before.index(SCREEN_BACK) :]  # the whole tree stays behind
    shell.type("exit\n")
    assert shell.end() == 128 + signal.SIGQUIT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_no_signal_leaves_the_cursor_hidden(terminal: Callable[..., Terminal], api: Api, number: int) -> None:
    trace_id = record(api, f"signal-{number}", goal(1))
    shown = terminal("tail", trace_id, "-o", "tree")
    shown.until(HIDDEN)
    shown.until("Goal <1>")
    shown.process.send_signal(number)
    assert shown.end() == (130 if number == signal.SIGINT else 128 + number)
    assert shown.seen.rindex(SHOWN) > shown.seen.rfind(HIDDEN)


def test_a_dumb_terminal_gets_the_tree_once_and_plain(terminal: Callable[..., Terminal], api: Api) -> None:
    record(api, "dumb-tree", goal(1), done())
    shown = terminal("tail", "dumb-tree", "-o", "tree", TERM="dumb")
    assert shown.end() == 0
    assert shown.seen.count("Goal <1>") == 1 and "\x1b" not in shown.seen


def test_another_history_replaces_the_tree(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    """The log was restored from a backup in which the run stood earlier."""
    db, copy = tmp_path / "log.db", tmp_path / "copy.db"
    running = ServerProcess(db).start()
    try:
        api = Api(running.url)
        record(api, "t", goal(1, "in_progress"), task="Of then")
        tracewatch("backup", str(copy), "--db", str(db))
        api.append("t", [goal(2), goal(3)])
        shown = terminal("tail", "t", "-o", "tree", url=running.url)
        shown.until("Goal <3>")
        running.stop()
        tracewatch("restore", str(copy), "--force", "--db", str(db))
        running.start()
        shown.until("another one now")
        wait_until(lambda: api.trace("t")["watchers"] == 1)
        api.append("t", [goal(4), done()])
        assert shown.end() == 0
        last = shown.seen[shown.seen.rindex(SCREEN_BACK) :]
        assert [f"Goal <{n}>" in last for n in (1, 2, 3, 4)] == [True, False, False, True]
    finally:
        running.stop()


def tracewatch(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "tracewatch", *args], check=True, capture_output=True, timeout=60)


def test_the_tree_stays_away_from_the_terminal_while_in_the_background(
    terminal: Callable[..., Terminal], api: Api
) -> None:
    record(api, "behind", goal(1), task="Behind")
    shell = terminal("--norc", "-i", program=("bash",), PS1="ready> ", COLUMNS="", LINES="", HISTFILE="")
    resize(shell, 40, 100)
    shell.until("ready> ")
    shell.type(f"{sys.executable} -m tracewatch tail behind -o tree\n")
    shell.until("Goal <1>")
    shell.type("\x1a")
    shell.until("Stopped")
    shell.type("bg\n")
    shell.until("ready> ")
    shell.seen = ""
    api.append("behind", [goal(2)])
    time.sleep(0.3)  # it would be drawn by now; nothing tells that it is not
    shell.type("fg\n")
    before = shell.until("Goal <2>")
    assert "Goal <2>" not in before.split("fg")[0] and OWN_SCREEN in before
    api.append("behind", [done()])
    shell.until("ready> ")
    shell.type("exit\n")
    assert shell.end() == 0
