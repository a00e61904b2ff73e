"""JSON written to a terminal: what an agent wrote can't steer it. In a pipe every byte is the stored one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cli.conftest import Spawned, done, record, thought
from tests.cli.test_control import question
from tests.cli.test_prompt import ROOT, Terminal, terminal
from tests.support import DEADLINE_S, ServerProcess
from tracewatch.client.api import Api

__all__ = ["terminal"]  # a fixture

STEERING = "\x7f \x9b31m \x9d8;; \u202egpj.exe \u2066 \u200b \ufeff \U000e0041"
COMMANDS = [
    ("tail", "t", "-o", "ndjson"),
    ("tail", "t", "-o", "json"),
    ("export", "t"),
    ("ls", "-o", "ndjson"),
    ("ls", "-o", "json"),
    ("inputs", "-o", "ndjson"),
    ("inputs", "-o", "json"),
]


@pytest.fixture
def trace(api: Api, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    trace_id = "t-" + "".join(c for c in name if c.isalnum())
    record(api, f"{trace_id}-asks", question(words=STEERING))
    return record(api, trace_id, thought(STEERING), done(), task=STEERING)


def lines(written: str, args: tuple[str, ...]) -> list[Any]:
    return [orjson.loads(part) for part in ([written] if "json" in args else written.split("\n")) if part.strip()]


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_a_terminal_gets_escapes(
    terminal: Callable[..., Terminal], spawn: Callable[..., Spawned], trace: str, args: tuple[str, ...]
) -> None:
    asked = tuple(trace if arg == "t" else arg for arg in args)
    shown = terminal(*asked)
    assert shown.end() == 0
    piped = spawn(*asked).end()
    assert piped.code == 0
    assert not [sign for sign in STEERING if sign != " " and not sign.isascii() and sign in shown.seen]
    assert "\x7f" not in shown.seen
    if args[:2] != ("tail", "t") or "json" not in args:  # several documents, one after the other
        assert lines(shown.seen, args) == lines(piped.out.decode(), args)
    if "json" not in args:
        assert STEERING.encode() in piped.out  # byte for byte


PLAIN: list[tuple[dict[str, str], tuple[str, ...]]] = [
    ({"NO_COLOR": "1"}, ()),
    ({"NO_COLOR": "", "TERM": "dumb"}, ()),
    ({"NO_COLOR": "", "TERM": "xterm-256color"}, ("--color", "never")),
]
SHOWING = [
    ("tail", "t", "--no-follow"),
    ("tail", "t", "-o", "tree", "--no-follow"),
    ("show", "t"),
    ("ls",),
    ("inputs",),
]


@pytest.mark.parametrize(("environ", "options"), PLAIN, ids=["NO_COLOR", "dumb", "never"])
@pytest.mark.parametrize("args", SHOWING, ids=" ".join)
def test_without_color_no_line_has_an_escape_sequence(
    terminal: Callable[..., Terminal],
    trace: str,
    args: tuple[str, ...],
    environ: dict[str, str],
    options: tuple[str, ...],
) -> None:
    """Neither on stdout nor on stderr, which is the same terminal; bold and dim are escape sequences too."""
    if options and args[0] != "tail":
        return  # the other commands have no such option
    shown = terminal(*(trace if arg == "t" else arg for arg in args), *options, **environ)
    assert shown.end() == 0
    assert trace[:13] in shown.seen or "gpj.ex" in shown.seen
    assert "\x1b" not in shown.seen


def test_with_color_they_have(terminal: Callable[..., Terminal], trace: str) -> None:
    shown = terminal("tail", trace, "--no-follow", NO_COLOR="", TERM="xterm-256color")
    assert shown.end() == 0
    assert shown.seen.count("\x1b[2m") > 1  # the times, and the line that says which trace this is


@pytest.mark.parametrize("args", [*SHOWING, ("export", "t"), ("ls", "-o", "json")], ids=" ".join)
@pytest.mark.parametrize("to", ["| head -c1", ">&-", "2>&- >&- <&-"])
def test_a_reader_that_leaves_or_is_not_there_is_no_error(
    server: ServerProcess, trace: str, args: tuple[str, ...], to: str
) -> None:
    asked = " ".join(trace if arg == "t" else arg for arg in args)
    line = f"{sys.executable} -m tracewatch {asked} {to}; exit ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "TRACEWATCH_URL": server.url}
    ran = subprocess.run(["bash", "-c", line], capture_output=True, timeout=DEADLINE_S, cwd=ROOT, env=environ)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_what_is_printed_never_goes_into_a_file_that_took_the_number_of_a_closed_stdout(tmp_path: Path) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db) as running:
        record(Api(running.url), "t", thought("hm"))
    line = f"{sys.executable} -m tracewatch doctor --db {db} >&- 2>&- <&-"
    for _ in range(2):
        subprocess.run(["bash", "-c", line], timeout=DEADLINE_S, cwd=ROOT, check=True)


def test_files_are_written_where_their_links_lead(server: ServerProcess, trace: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    environ = {**os.environ, "TRACEWATCH_URL": server.url}

    def run(*args: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "tracewatch", *args], check=True, timeout=DEADLINE_S, cwd=ROOT, env=environ
        )

    for name in ("cursor", "export", "copy"):
        (tmp_path / name).symlink_to(there / name)  # which is not there yet, and then is
    for _ in range(2):
        run("tail", trace, "--no-follow", "--cursor-file", str(tmp_path / "cursor"))
        run("export", trace, "-O", str(tmp_path / "export"))
        run("backup", str(tmp_path / "copy"), "--db", server.db, "--force")
    assert sorted(path.name for path in there.iterdir()) == ["copy", "cursor", "export"]
    assert all((tmp_path / name).is_symlink() for name in ("cursor", "export", "copy"))
    assert (there / "cursor").read_text().strip().endswith(".2")
