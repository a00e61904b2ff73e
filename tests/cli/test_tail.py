"""``tail`` on a real server: its beginning, its end, its output, and restarts of the server in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Run, Spawned, done, record, thought, wait_until
from tests.support import ServerProcess, free_port
from tracewatch.client.api import Api

Spawn = Callable[..., Spawned]


def ids(out: bytes) -> list[int]:
    return [orjson.loads(line)["event_id"] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], range(11, 31)),
        (["-n", "3"], range(28, 31)),
        (["-n", "all"], range(1, 31)),
        (["-n", "0"], []),
        (["-n", "99"], range(1, 31)),
        (["--after", "27"], range(28, 31)),
        (["--since", "1h"], range(1, 31)),
        (["--since", "2099-01-01T00:00:00Z"], []),
        (["--types", "trace_completed,other"], [30]),
        (["--grep", "^thought .*number 1[0-2]"], [11, 12, 13]),
        (["--grep", "number 3", "-n", "10"], []),
    ],
)
@pytest.mark.parametrize("follow", [[], ["--no-follow"]])
def test_begins_where_it_is_told(tw: Run, api: Api, options: list[str], expected: range, follow: list[str]) -> None:
    record(api, "thirty", *(thought(f"number {n}") for n in range(29)), done()) if not _there(api, "thirty") else None
    ran = tw("tail", "thirty", "-o", "ndjson", *options, *follow)
    assert (ran.code, ran.err) == (0, "")
    assert ids(ran.out) == list(expected)


def _there(api: Api, trace_id: str) -> bool:
    return any(trace["trace_id"] == trace_id for trace in api.traces(limit=1000)["traces"])


def test_ndjson_is_the_stored_bytes(tw: Run, api: Api) -> None:
    record(api, "bytes", thought("Grüße \x1b\u202e"), done())
    assert tw("tail", "bytes", "-o", "ndjson").out == b"".join(body + b"\n" for body in api.events("bytes"))


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("stopped", 3)])
def test_exit_status_says_how_it_ended(tw: Run, api: Api, status: str, code: int) -> None:
    record(api, f"ended-{status}", done(status))
    assert tw("tail", f"ended-{status}", "--exit-status").code == code
    assert tw("tail", f"ended-{status}", "--exit-status", "-o", "tree").code == code
    assert tw("tail", f"ended-{status}", "--exit-status", "--no-follow").code == code
    assert tw("tail", f"ended-{status}").code == 0


def test_a_lost_trace_ends_an_exit_status(tw: Run, api: Api) -> None:
    record(api, "gone", thought("hm"), {"event": "trace_status_changed", "status": "lost"})
    ran = tw("tail", "gone", "--exit-status", "-o", "ndjson")
    assert (ran.code, ids(ran.out)) == (5, [1, 2])
    assert tw("tail", "gone", "--exit-status", "-o", "tree").code == 5


def test_a_trace_becoming_lost_while_it_is_followed(spawn: Spawn, api: Api) -> None:
    record(api, "going", thought("hm"))
    tail = spawn("tail", "going", "--exit-status", "-o", "ndjson")
    assert ids(tail.line()) == [1]
    api.append("going", [{"event": "trace_status_changed", "status": "lost"}])
    assert tail.end().code == 5


def test_follows_until_the_end(spawn: Spawn, api: Api) -> None:
    record(api, "live", thought("one"))
    tail = spawn("tail", "live", "--exit-status")
    assert tail.line().endswith(b"thought one\n")
    api.append("live", [thought("two")])
    assert tail.line().endswith(b"thought two\n")
    api.append("live", [done("stopped")])
    ran = tail.end()
    assert (ran.code, ran.err) == (3, "")
    assert "stopped" in ran.text


def test_ctrl_c_leaves_with_130_and_what_was_printed_is_in_the_cursor_file(
    spawn: Spawn, api: Api, tmp_path: Path
) -> None:
    record(api, "cursor", thought("one"), thought("two"))
    file = tmp_path / "cursor"
    tail = spawn("tail", "cursor", "-o", "ndjson", "--cursor-file", str(file))
    printed = tail.line() + tail.line()
    wait_until(lambda: file.exists() and file.read_text().endswith(".2\n"))
    tail.interrupt()
    assert (ran := tail.end()).code == 130
    assert (ids(printed + ran.out), ran.err) == ([1, 2], "")
    api.append("cursor", [thought("three"), done()])
    assert ids(spawn("tail", "cursor", "-o", "ndjson", "--cursor-file", str(file)).end().out) == [3, 4]
    assert spawn("tail", "cursor", "-o", "ndjson", "--cursor-file", str(file)).end().out == b""
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_sigterm_is_as_clean(spawn: Spawn, api: Api) -> None:
    record(api, "term", thought("one"))
    tail = spawn("tail", "term")
    tail.line()
    tail.process.send_signal(signal.SIGTERM)
    assert ((ran := tail.end()).code, ran.err) == (143, "")


def test_a_reader_that_leaves_ends_it_quietly_even_when_nothing_comes(spawn: Spawn, api: Api) -> None:
    record(api, "head", *(thought(f"number {n}") for n in range(5000)))
    tail = spawn("tail", "head", "-n", "all")
    assert tail.process.stdout is not None and b"number 0" in tail.line()
    tail.process.stdout.close()
    assert tail.process.stderr is not None and tail.process.stderr.read() == b""
    assert tail.process.wait(60) == 0
    idle = spawn("tail", "head", "-n", "1")
    assert idle.process.stdout is not None and b"number 4999" in idle.line()
    idle.process.stdout.close()
    assert idle.process.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_in_one_line_and_does_not_move_the_cursor(
    api: Api, server: ServerProcess, tmp_path: Path
) -> None:
    record(api, "full", *(thought(f"number {n}") for n in range(3)), done())
    command = f"{sys.executable} -m tracewatch tail full --cursor-file {tmp_path}/c > /dev/full"
    env = {**os.environ, "TRACEWATCH_URL": server.url}
    ran = subprocess.run(["sh", "-c", command], env=env, capture_output=True, timeout=30, text=True)
    assert ran.returncode == 1
    assert "No space left" in ran.stderr and len(ran.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_outage_is_told_once_and_nothing_is_missed_or_repeated(tmp_path: Path, spawn: Spawn) -> None:
    with ServerProcess(tmp_path / "log.db") as server:
        api = Api(server.url)
        record(api, "out", *(thought(f"number {n}") for n in range(10)))
        tail = spawn("tail", "out", "-o", "ndjson", "-n", "all", url=server.url)
        first = b"".join(tail.line() for _ in range(10))
        server.kill()
        assert tail.error_line() == b"connection lost, retrying (last event 10)\n"
        server.start()
        api.append("out", [thought("eleven")])
        assert tail.error_line().startswith(b"reconnected, ")
        api.append("out", [done()])
        ran = tail.end()
        assert (ran.code, ran.err) == (0, "")
        assert first + ran.out == b"".join(body + b"\n" for body in api.events("out"))


def test_gives_up_after_retry_max(tmp_path: Path, spawn: Spawn) -> None:
    with ServerProcess(tmp_path / "log.db") as server:
        record(Api(server.url), "out", thought("one"))
        tail = spawn("tail", "out", "--retry-max", "0.3", url=server.url)
        tail.line()
        server.kill()
        ran = tail.end()
    assert ran.code == 69
    assert ran.err.count("connection lost") == 1
    assert "start one with: tracewatch serve" in ran.err


def test_a_cursor_of_another_log_is_refused_with_a_way_out(tw: Run, api: Api) -> None:
    record(api, "gap", thought("one"), done())
    for cursor in ("otherepoch.1", "99"):
        ran = tw("tail", "gap", "--after", cursor)
        assert (ran.code, ran.out) == (2, b"")
        assert "--after" in ran.err


@pytest.mark.parametrize("follow", ["--follow", "--no-follow"])
def test_sub_traces(tw: Run, api: Api, follow: str) -> None:
    name = f"parent{follow}"
    record(api, name, {"event": "goal_added", "goal": {"id": "g", "description": "Goal", "status": "in_progress"}})
    record(api, f"{name}-a", thought("of a"), parent_trace_id=name, agent_type="helper")
    record(api, f"{name}-b", thought("of b"), done(), parent_trace_id=f"{name}-a")
    api.append(f"{name}-a", [done()])
    api.append(name, [done()])
    lines = tw("tail", name, "--children", follow).text.splitlines()
    assert len(lines) == sum(api.trace(t)["trace"]["last_event_id"] for t in (name, f"{name}-a", f"{name}-b"))
    assert any("   helper: • thought of a" in line for line in lines)
    assert any("     agent: • thought of b" in line for line in lines)
    tree = tw("tail", name, "--children", "-o", "tree", follow).text
    assert "↳ helper" in tree and "↳ agent" in tree and "● Goal" not in tree and "◐ Goal" in tree


def test_a_cursor_file_remembers_sub_traces(spawn: Spawn, api: Api, tmp_path: Path) -> None:
    record(api, "family", thought("one"))
    record(api, "family-child", thought("of the child"), parent_trace_id="family")
    args = ("tail", "family", "--children", "-o", "ndjson", "--cursor-file", str(tmp_path / "c"))
    tail = spawn(*args)
    printed = [tail.line() for _ in range(3)]
    wait_until(lambda: (tmp_path / "c").exists() and "family-child 1\n" in (tmp_path / "c").read_text())
    tail.interrupt()
    tail.end()
    api.append("family-child", [done()])
    api.append("family", [done()])
    printed += spawn(*args).end().out.splitlines(keepends=True)
    assert sorted(printed) == sorted(
        body + b"\n" for trace_id in ("family", "family-child") for body in api.events(trace_id)
    )


def test_starting_in_the_middle_knows_what_came_before(tw: Run, api: Api) -> None:
    call = {"tool_name": "grep", "arguments": {"pattern": "x"}}
    record(
        api,
        "middle",
        {"event": "goal_added", "goal": {"id": "g", "description": "The goal", "status": "in_progress"}},
        {
            "event": "message_added",
            "message": {"message_id": "t", "role": "tool", "status": "running", "content": call},
        },
        {
            "event": "message_updated",
            "message_id": "t",
            "patch": {"status": "complete", "content": {**call, "result": 1}},
        },
        done(),
    )
    (line, _) = tw("tail", "middle", "-n", "2").text.splitlines()
    assert line.endswith("✓ tool [The goal] grep pattern=x → 1")


def test_color_only_where_asked_for(tw: Run, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    record(api, "color", done())
    assert b"\x1b[" not in tw("tail", "color").out
    assert b"\x1b[32m" in tw("tail", "color", "--color", "always").out
    assert b"\x1b[" not in tw("tail", "color", "--color", "never").out
    assert b"\x1b[" in tw("tail", "color", "-o", "tree", "--color", "always").out


def test_unreachable(tw: Run) -> None:
    ran = tw("tail", "any", "--url", f"http://127.0.0.1:{free_port()}")
    assert (ran.code, ran.out) == (69, b"")
    assert "start one with: tracewatch serve" in ran.err


@pytest.mark.parametrize(
    "args",
    [
        ["tail"],
        ["tail", "nosuch"],
        ["tail", "no such"],
        ["tail", "http://127.0.0.1:1/elsewhere"],
        ["tail", "x", "--nonsense"],
        ["tail", "x", "--grep", "["],
        ["tail", "x", "-o", "xml"],
        ["tail", "x", "--url", "sqlite:///x.db"],
        ["tail", "x", "--url", "nonsense"],
        ["tial"],
        ["show", "nosuch"],
        ["export", "nosuch"],
        ["ls", "--parent", "nosuch"],
        ["ls", "--status", "sleeping"],
        ["serve", "--host", "0.0.0.0"],
        ["serve", "--port", "99999"],
        ["import"],
        ["import", "x", "--speed", "fast"],
        ["demo", "/no/such/folder"],
    ],
)
def test_usage_errors_are_2_and_say_what(tw: Run, args: list[str]) -> None:
    ran = tw(*args)
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.strip() and "Traceback" not in ran.err


def test_options_that_do_not_fit_the_tree_are_refused(tw: Run, api: Api) -> None:
    record(api, "refused", done())
    for option in (["-n", "5"], ["--errors"], ["--grep", "x"], ["--cursor-file", os.devnull]):
        assert tw("tail", "refused", "-o", "tree", *option).code == 2
