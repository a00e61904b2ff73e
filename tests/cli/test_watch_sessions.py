"""`watch-sessions`: sessions that grow, that rest, that are resumed, and what a kill in the middle leaves."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.importers.test_claude_code import SESSION, Lines, agent_lines
from tests.importers.test_codex import Rollout
from tests.importers.test_forms import real_gemini_rows
from tracewatch.cli.session_watch import CUT_S, IDLE_S, RECENT_S, SessionPlace, SessionWatch
from tracewatch.client.api import Api
from tracewatch.importers import open_import
from tracewatch.importers.following import GEMINI_RESTS_S, PIECE_BYTES, GrowingFile

from .conftest import Run, Spawned, wait_until


class Home:
    """A folder of each agent, a watch over both, and its clocks."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        self.claude, self.codex, self.gemini = folder / "projects", folder / "sessions", folder / "tmp"
        for place in (self.claude / "-work", self.codex, self.gemini / "p" / "chats" / "s1"):
            place.mkdir(parents=True)
        self.state = folder / "state"
        self.now = 1000.0
        self.said: list[str] = []
        self.watch = self.start()

    def start(self, *, past: bool = True) -> SessionWatch:
        places = [SessionPlace(self.claude, "claude"), SessionPlace(self.codex, "codex")]
        places.append(SessionPlace(self.gemini, "gemini"))
        self.watch = SessionWatch(
            self.api, places, self.said.append, state=self.state, past=past, clock=lambda: self.now
        )
        return self.watch

    def look(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.watch.scan()
        for _ in range(50):
            assert self.watch.look(), self.watch.refusal
            if not self.watch.busy:
                return
        raise AssertionError("it goes on and on")

    def session(self, name: str = SESSION) -> Path:
        return self.claude / "-work" / f"{name}.jsonl"


@pytest.fixture
def home(api: Api, tmp_path: Path) -> Iterator[Home]:
    home = Home(api, tmp_path)
    yield home
    for trace_id in (f"cc-{SESSION}", "cx-t1", "cc-old", "gc-s1", "cx-t2", "gc-s2"):
        try:
            api.delete(trace_id)
        except Exception:  # it was not made
            continue


def append(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def kept(api: Api, trace_id: str) -> list[bytes]:
    return list(api.events(trace_id, "-10000"))  # of one that was deleted, what came after that


def test_a_session_grows_line_by_line_also_by_half_lines(home: Home, api: Api) -> None:
    rows = Lines().user("Check it.").call("c1", "Bash", command="ls").result("c1", "a").said("Done.").rows
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    path = home.session()
    seen = []
    for place in range(0, len(data), 150):
        with path.open("ab") as file:
            file.write(data[place : place + 150])
        home.look(0.1)
        seen.append(len(api.messages(f"cc-{SESSION}")["messages"]) if place > 600 else 0)
    home.look(0.1)
    assert [m["content"] for m in api.messages(f"cc-{SESSION}")["messages"]][-1] == "Done."
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    trace = api.trace(f"cc-{SESSION}")["trace"]
    assert (trace["task"], trace["total_messages"], trace["session_id"]) == ("Check it.", 3, SESSION)
    assert home.said == []


def test_a_last_line_without_its_line_break_waits_and_is_told_at_last(tmp_path: Path) -> None:
    path, now = tmp_path / "s.jsonl", [0.0]
    file = GrowingFile(path, lambda: now[0])
    assert file.read() == []  # it is not there yet
    path.write_bytes(b'{"a": 1}\n{"b": 2')
    assert [row for _, row in file.read()] == [{"a": 1}]
    path.write_bytes(b'{"a": 1}\n{"b": 2}')
    assert file.read() == []
    now[0] += 10
    assert file.read() == [(2, {"b": 2})]
    with path.open("ab") as more:
        more.write(b'\n{"c": 3}\n')
    assert [row for _, row in file.read()] == [{"c": 3}]
    path.write_bytes(b'{"new": 1}\n')
    assert file.read() == [(1, {"new": 1})]
    assert file.replaced


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    rows = [{"n": number, "text": "x" * 1000} for number in range(3000)]
    rows[1] = {"n": 1, "text": "y" * (2 * PIECE_BYTES)}  # a line that is larger than a piece
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    file, pieces = GrowingFile(path), []
    while piece := file.read():
        pieces.append(piece)
    assert [row["n"] for piece in pieces for _, row in piece] == list(range(3000))
    assert len(pieces) > 2
    assert not file.behind


def test_a_sub_agent_is_seen_while_it_works(home: Home, api: Api) -> None:
    rows = Lines().user("Check it.").call("c1", "Agent", description="Look", prompt="Look at it.").rows
    append(home.session(), *rows)
    home.look()
    below = home.session().with_suffix("") / "subagents"
    agent = agent_lines().rows
    append(below / "agent-x1.jsonl", *agent[:2])
    home.look()
    assert api.trace(f"cc-{SESSION}")["sub_traces"] == []  # what links it is still to come
    (below / "agent-x1.meta.json").write_text('{"agentType": "scout", "toolUseId": "c1"}')
    home.look()
    (sub,) = api.trace(f"cc-{SESSION}")["sub_traces"]
    assert (sub["trace_id"], sub["status"], sub["agent_type"]) == (f"cc-{SESSION}-x1", "running", "scout")
    append(below / "agent-x1.jsonl", *agent[2:])
    append(home.session(), *Lines(start=30).result("c1", "It is fine.").said("Fine.").rows)
    home.look()
    (sub,) = api.trace(f"cc-{SESSION}")["sub_traces"]
    assert (sub["status"], sub["summary"]) == ("completed", "It is fine.")


@pytest.mark.parametrize("twice", [False, True])
def test_a_kill_at_any_moment_repeats_and_loses_nothing(home: Home, api: Api, twice: bool) -> None:
    """Each time, a watch that knows nothing goes on where the one before was killed. Lines may come twice."""
    lines = Lines().user("Check it.").todos("t1", ("a", "in_progress")).call("c1", "Bash").result("c1", "x")
    lines.todos("t2", ("a", "completed")).said("Done.", message={"stop_reason": "end_turn"})
    rollout = (
        Rollout().said("user", "Go").event("task_started").call("k1", "shell", {"c": 1}, "a").said("assistant", "So")
    )
    rollout.event("task_complete")
    thread = home.codex / "2026" / "rollout-1-t1.jsonl"
    for number in range(max(len(lines.rows), len(rollout.rows))):
        for path, rows in ((home.session(), lines.rows), (thread, rollout.rows)):
            append(path, *rows[number : number + 1] * (2 if twice else 1))
        home.start()
        home.look()
        if number % 2:
            home.watch.look()
    before = {trace_id: kept(api, trace_id) for trace_id in (f"cc-{SESSION}", "cx-t1")}
    home.start()
    home.look()
    assert {trace_id: kept(api, trace_id) for trace_id in before} == before
    ids = [m["message_id"] for m in api.messages(f"cc-{SESSION}")["messages"]]
    assert ids == ["main-0", "t1", "c1", "t2", "main-7"]
    assert [m["role"] for m in api.messages("cx-t1")["messages"]] == ["user", "tool", "assistant"]
    goals = api.trace(f"cc-{SESSION}")["goal_tree"]["goals"]
    assert [(g["description"], g["status"]) for g in goals] == [("a", "completed")]


def test_a_session_that_rests_is_over_at_last_and_goes_on_when_it_is_resumed(home: Home, api: Api) -> None:
    lines = Lines().user("One").said("1", message={"stop_reason": "end_turn"})
    append(home.session(), *lines.rows)
    home.look()
    home.look(IDLE_S / 2)
    assert api.trace(f"cc-{SESSION}")["trace"]["status"] in ("running", "idle")
    home.look(IDLE_S)
    assert api.trace(f"cc-{SESSION}")["trace"]["status"] == "completed"
    home.look(IDLE_S)
    events = len(kept(api, f"cc-{SESSION}"))
    append(home.session(), *Lines(start=30).user("Two").rows)
    home.watch.changed(home.session())
    home.look()
    trace = api.trace(f"cc-{SESSION}")["trace"]
    assert (trace["status"], trace["total_messages"]) == ("running", 3)
    assert len(kept(api, f"cc-{SESSION}")) == events + 2


def test_a_session_that_was_cut_off_has_no_heartbeats_any_more(
    home: Home, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[str] = []
    monkeypatch.setattr(api, "heartbeat", beats.append)
    append(home.session(), *Lines().user("One").call("c1", "Bash").rows)
    home.look()
    home.look(20)
    assert beats[-1:] == [f"cc-{SESSION}"]
    working = {"there": True}
    monkeypatch.setattr("tracewatch.cli.session_watch.agents_in", lambda cwd, kind: working["there"])
    home.look(CUT_S + 1)
    before = len(beats)
    home.look(20)
    assert len(beats) > before  # its tool takes long: the process is there
    working["there"] = False
    home.look(20)
    before = len(beats)
    home.look(100)
    assert len(beats) == before


def test_old_sessions_are_imported_once_and_a_restart_looks_only_at_what_has_changed(
    home: Home, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import time

    lines = Lines().user("Old").said("ok")
    lines.rows = [row | {"sessionId": "old"} for row in lines.rows]
    path = lines.write(home.session("old"))
    then = time.time() - RECENT_S - 60
    os.utime(path, (then, then))
    home.start(past=False)
    home.look()
    assert home.watch.runs == 0
    home.start()
    home.look()
    home.watch.finish()
    assert api.trace("cc-old")["trace"]["status"] == "completed"
    monkeypatch.setattr("tracewatch.cli.session_watch.read_session", lambda path, name: 1 / 0)
    home.start()
    home.look()  # nothing is read


def test_a_chat_of_gemini_cli_rests_is_resumed_and_has_sub_agents(home: Home, api: Api, tmp_path: Path) -> None:
    rows = real_gemini_rows()
    chat, sub = home.gemini / "p" / "chats" / "session-1.jsonl", home.gemini / "p" / "chats" / "s1" / "session-2.jsonl"
    for row in rows[:-1]:
        append(chat, row)
        home.look(1)
    assert api.trace("gc-s1")["trace"]["status"] == "running"
    append(sub, rows[0] | {"sessionId": "s2"}, *rows[2:])
    home.look()
    append(chat, rows[-1])
    home.look(5)
    assert api.trace("gc-s1")["trace"]["status"] == "running"  # it may have begun another tool
    home.start()  # it knows nothing
    home.look()
    home.look(GEMINI_RESTS_S + 1)
    found = api.trace("gc-s1")
    assert (found["trace"]["status"], found["trace"]["total_messages"]) == ("idle", 4)
    assert [(s["trace_id"], s["status"], s["summary"]) for s in found["sub_traces"]] == [
        ("gc-s2", "completed", "It says text.")
    ]
    events = len(kept(api, "gc-s1"))
    again = {"$set": {"messages": [rows[2], rows[5], rows[6], rows[7]]}}
    append(chat, again, rows[2] | {"id": "m5", "content": "Again", "timestamp": "2026-03-01T09:01:00.000Z"})
    home.look()
    assert [orjson.loads(event)["event"] for event in kept(api, "gc-s1")][events:] == [
        "trace_status_changed",
        "message_added",
    ]
    assert home.said == []


def test_a_sub_agent_that_comes_before_its_parent_is_put_below_it(home: Home, api: Api) -> None:
    sub = Rollout("t2", parent_thread_id="t1").said("user", "Help")
    path = home.codex / "rollout-2-t2.jsonl"
    append(path, *sub.rows)
    home.look()
    assert api.trace("cx-t2")["trace"]["task"] == "Help"
    append(home.codex / "rollout-1-t1.jsonl", *Rollout().said("user", "Go").rows)
    home.look()
    append(path, *sub.said("assistant", "Here.").rows[-1:])
    home.look()
    assert [one["trace_id"] for one in api.trace("cx-t1")["sub_traces"]] == ["cx-t2"]
    assert home.said == []


def test_a_trace_that_was_deleted_meanwhile_is_told_anew(home: Home, api: Api) -> None:
    append(home.session(), *Lines().user("One").rows)
    home.look()
    api.delete(f"cc-{SESSION}")
    append(home.session(), *Lines(start=5).said("1").rows)
    home.look()
    home.look()
    assert [m["content"] for m in api.messages(f"cc-{SESSION}")["messages"]] == ["One", "1"]


def test_the_command_follows_and_ends_with_ctrl_c(
    spawn: Callable[..., Spawned], tw: Run, api: Api, tmp_path: Path
) -> None:
    claude = tmp_path / "projects"
    (claude / "-work").mkdir(parents=True)
    places = ("--claude", str(claude), "--codex", str(tmp_path / "none"), "--gemini", str(tmp_path / "no"))
    one = spawn("watch-sessions", *places, TRACEWATCH_SPOOL_DIR=str(tmp_path / "spool"))
    assert b"following" in one.error_line()
    assert b"waiting for" in one.error_line()
    rows = [row | {"sessionId": "followed"} for row in Lines().user("Go").said("ok").rows]
    append(claude / "-work" / "followed.jsonl", *rows)

    def there() -> bool:
        try:
            return len(api.messages("cc-followed")["messages"]) == 2
        except Exception:  # it is not there yet
            return False

    wait_until(there)
    one.process.send_signal(signal.SIGINT)
    done = one.end()
    assert (done.code, "Traceback" in done.err) == (130, False)
    assert list(open_import(claude))
    assert tw("watch-sessions", *places, "--once").code == 0
