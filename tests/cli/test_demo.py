"""``demo`` and ``serve``: their processes start, work, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Spawned, wait_until
from tests.support import free_port
from tracewatch.cli.demo_agent import MODEL
from tracewatch.cli.demo_tools import Workshop
from tracewatch.client.api import Api
from tracewatch.client.errors import Unreachable

Spawn = Callable[..., Spawned]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small project."""
    project = tmp_path / "project"
    (project / "pkg" / "__pycache__").mkdir(parents=True)
    (project / "pkg" / "__pycache__" / "a.py").write_text("import hidden\n")
    (project / ".git").mkdir()
    (project / ".git" / "config").write_text("TODO secret\n")
    (project / "pkg" / "a.py").write_text(
        '"""Does a thing.\n\nMore."""\nimport os, re\n\n\n'
        "class A:\n    def long(self):\n        # TODO: shorten\n        return 1\n"
    )
    (project / "pkg" / "broken.py").write_text("def (\n")
    (project / "image.bin").write_bytes(b"\xff\x00\xfe")
    (project / "notes.md").write_text("# Notes\nFIXME\n")
    return project


def listening(spawned: Spawned, out: bool) -> str:
    line = spawned.line() if out else spawned.error_line()
    return next(word for word in line.decode().split() if word.startswith("http"))


# --- serve ---


def test_serve_says_where_and_ends_with_sigterm(spawn: Spawn, tmp_path: Path) -> None:
    server = spawn("serve", "--port", "0", "--db", str(tmp_path / "log.db"), url="")
    url = listening(server, out=False)
    assert Api(url).health()["status"] == "ok"
    server.process.terminate()
    ran = server.end()
    assert (ran.code, ran.out, ran.err) == (0, b"", "")


def test_serve_takes_the_environment_and_a_flag_wins(spawn: Spawn, tmp_path: Path) -> None:
    port = free_port()
    env = {"TRACEWATCH_DB": str(tmp_path / "log.db"), "TRACEWATCH_PORT": "1"}
    server = spawn("serve", "--port", str(port), url="", **env)
    assert listening(server, out=False) == f"http://127.0.0.1:{port}"
    assert (tmp_path / "log.db").exists()
    server.interrupt()
    assert server.end().code in (0, 130)


def test_a_port_in_use_is_said_in_one_line(spawn: Spawn, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = spawn("serve", "--port", port, "--db", str(tmp_path / "log.db"), url="").end()
    assert ran.code in (1, 2)
    assert port in ran.err and len(ran.err.splitlines()) == 1


def test_a_file_that_is_no_database_is_said_in_one_line(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "log.db").write_text("This is a letter, not a database. " * 200)
    ran = spawn("serve", "--port", "0", "--db", str(tmp_path / "log.db"), url="").end()
    assert ran.code == 1
    assert "log.db" in ran.err and "Traceback" not in ran.err


def test_help_has_every_option(spawn: Spawn) -> None:
    shown = spawn("serve", "--help").end().text
    for flag in ("--db", "--port", "--workers", "--heartbeat-s", "--max-event-bytes"):
        assert flag in shown
    assert "--url" not in shown and "--with-parent" not in shown


@pytest.mark.parametrize(
    "command", ["serve", "demo", "run", "tail", "ls", "show", "inputs", "answer", "cancel", "import", "export"]
)
def test_every_command_has_examples(spawn: Spawn, command: str) -> None:
    ran = spawn(command, "--help").end()
    assert ran.code == 0 and f"Examples:\n    tracewatch {command}" in ran.text


# --- demo ---


def test_a_run_is_complete_real_and_leaves_nothing(spawn: Spawn, folder: Path, tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    kept = tmp_path / "kept.db"
    demo = spawn(
        "demo", str(folder), "--speed", "300", "--port", "0", "--db", str(kept), "--runs", "2", TMPDIR=str(tmp)
    )
    url = listening(demo, out=True)
    ran = demo.end()
    assert (ran.code, ran.err) == (0, "")
    assert ran.text.count("completed in") == 2
    assert list(tmp.iterdir()) == []
    with pytest.raises(Unreachable):
        Api(url).health()

    server = spawn("serve", "--port", "0", "--db", str(kept), url="")
    api = Api(listening(server, out=False))
    traces = api.traces()["traces"]
    assert [trace["status"] for trace in traces] == ["completed"] * 6
    root = next(trace for trace in traces if trace["parent_trace_id"] is None)
    assert root["metadata"]["estimates"]
    found = api.trace(root["trace_id"])
    assert {goal["status"] for goal in found["goal_tree"]["goals"]} == {"completed"}
    assert {sub["agent_type"] for sub in found["sub_traces"]} == {"reader", "checker"}
    events = [orjson.loads(body) for trace in traces for body in api.events(trace["trace_id"])]
    # As they stand: how a streamed text was cut into events depends on the clock
    said = orjson.dumps([api.messages(trace["trace_id"], limit=1000) for trace in traces]).decode()
    assert "pkg/a.py has 1 class and 1 function" in said and "2 lines say TODO or FIXME" in said
    assert "secret" not in said and "hidden" not in said
    models = {e["message"].get("model") for e in events if e["event"] == "message_added"}
    assert models <= {MODEL, None} and MODEL in models


def test_it_can_work_on_a_server_that_runs(spawn: Spawn, folder: Path, tmp_path: Path) -> None:
    server = spawn("serve", "--port", "0", "--db", str(tmp_path / "log.db"), url="")
    url = listening(server, out=False)
    ran = spawn("demo", str(folder), "--speed", "300", "--url", url).end()
    assert (ran.code, ran.err) == (0, "") and ran.text.startswith(f"server: {url}\n")
    assert {trace["status"] for trace in Api(url).traces()["traces"]} == {"completed"}, "and it still answers"
    assert spawn("demo", "--url", url, "--db", "x.db").end().code == 2
    assert spawn("demo", "--url", "http://127.0.0.1:9").end().code == 69


def test_ctrl_c_ends_the_run_the_server_and_the_files(spawn: Spawn, tmp_path: Path) -> None:
    demo = spawn("demo", "--speed", "2", "--port", "0", "--forever", TMPDIR=str(tmp_path))
    url = listening(demo, out=True)
    wait_until(lambda: any(t["last_event_id"] > 5 for t in Api(url).traces()["traces"]))
    assert list(tmp_path.iterdir())
    demo.interrupt()
    ran = demo.end()
    assert ran.code == 130 and "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Unreachable):
        Api(url).health()


def test_a_demo_that_is_killed_takes_its_server_along(spawn: Spawn, tmp_path: Path) -> None:
    demo = spawn("demo", "--speed", "2", "--port", "0", TMPDIR=str(tmp_path))
    url = listening(demo, out=True)
    demo.process.kill()
    demo.process.wait()

    def gone() -> bool:
        try:
            Api(url).health()
        except Unreachable:
            return True
        return False

    wait_until(gone)


def test_a_taken_port_is_an_error_of_one_line(spawn: Spawn, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = spawn("demo", "--port", str(taken.getsockname()[1]), TMPDIR=str(tmp_path)).end()
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# --- its tools ---


def test_the_tools_see_what_is_there_and_nothing_else(folder: Path) -> None:
    tools = Workshop(folder)
    assert tools.list_files() == ["image.bin", "notes.md", "pkg/a.py", "pkg/broken.py"]
    assert tools.count_lines() == {".py": {"files": 2, "lines": 11}, ".md": {"files": 1, "lines": 2}}
    assert tools.largest(1) == [{"file": "pkg/a.py", "lines": 10}]
    assert tools.grep(r"TODO|FIXME")["matches"] == ["notes.md:2: FIXME", "pkg/a.py:9: # TODO: shorten"]
    outline = tools.outline("pkg/a.py")
    assert outline["longest"] == {"name": "long", "lines": 3} and outline["docstring"] == "Does a thing."
    assert tools.most_imported() == {"os": 1, "re": 1}
    assert tools.longest_functions()[0]["function"] == "long"
    assert tools.undocumented()["without"] == 2
    assert tools.read_file("notes.md", 2) == "FIXME"


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "absent.md", "image.bin", "pkg"])
def test_the_tools_stay_in_the_folder_and_read_text_only(folder: Path, name: str) -> None:
    (folder.parent / "outside").write_text("no")
    with pytest.raises((OSError, ValueError)):
        Workshop(folder).read_file(name)


def test_a_command_ends_when_its_output_is_closed(tmp_path: Path) -> None:
    """`| head -1` in a real shell."""
    env = {**os.environ, "TRACEWATCH_URL": "http://127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    command = "python -m tracewatch --help | head -1; python -m tracewatch ls --help | true"
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], env={**env, "PATH": path}, cwd=tmp_path, capture_output=True, timeout=30
    )
    assert done.stderr == b"" and done.stdout.count(b"\n") == 1
    assert signal.getsignal(signal.SIGPIPE) is not None
