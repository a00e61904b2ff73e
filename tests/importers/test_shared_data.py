"""Every real agent run of ../shared/data imports, and the model refuses nothing of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.errors import BadRequest
from tracewatch.importers import AppendEvent, ImportFault, WireBody, detect, open_import
from tracewatch.importers.ledger import steps_of

from .folding import Imported, fold

# What is in each file: its format, and how many traces and (recorder's) events it gives.
CLAUDE = {
    "edge_cases.jsonl": (1, 24),
    "representative_messages.jsonl": (1, 13),
    "session_b.jsonl": (1, 4),
    "todowrite_examples.jsonl": (1, 24),
    "session-with-subagents/session.jsonl": (3, 27),
}
EDGE_CASES = [  # lines of edge_cases.jsonl that are broken on purpose
    (10, "message.content"),
    (11, "message"),
    (13, None),
    (15, None),
    (16, None),
    (17, "message.content[0].input.todos[0]"),
    (18, "message.content[0]"),
]
AGENTS = {
    "data_science__final_tape.json": 8,
    "delegate__tape.json": 3,
    "delegate_stack__tape1.json": 5,
    "delegate_stack__tape2.json": 6,
    "tape_improver__final_tape.json": 4,
    "rl_gsm8k__tapes.json": 6,  # six tapes rather than six agents
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
NAMED_OTHERWISE = {"function", "text", "tool_use", "tool_result", "message", "thinking"}  # types that became keys


def imported(path: Path) -> Imported:
    done = fold(open_import(path))
    assert done.traces
    return done


def test_tau_bench(shared_data: Path) -> None:
    path = shared_data / "tau-bench" / "gpt-4o-airline.json"
    assert detect(path) == "tau-bench"
    done = imported(path)
    assert done.faults == []
    assert len(done.traces) == 201
    assert done.root.summary == "84 of 200 passed"
    assert done.statuses.count("failed") == 116
    assert len(done.root.goals) == 50
    raw = orjson.loads(path.read_bytes())
    assert_nothing_is_lost(raw[::20], done)
    # Results have gone into their calls; what was said beside a call is a message of its own.
    chat = [message for run in raw for message in run["traj"]]
    results = sum(message["role"] == "tool" for message in chat)
    beside = sum(bool(message.get("tool_calls") and message["content"]) for message in chat)
    assert (len(chat), results) == (5308, 1164)
    assert done.root.tree_totals()["total_messages"] == len(chat) - results + beside
    paid = sum(run["info"]["user_cost"] or 0.0 for run in raw)
    assert done.root.tree_totals()["total_cost"] == pytest.approx(paid, abs=1e-6)
    assert not any(m.get("no_call") or m.get("no_result") for t in done.traces for m in done.messages(t))


def test_every_tape(shared_data: Path) -> None:
    files = sorted((shared_data / "tapeagents").glob("*.json"))
    assert len(files) == 22
    for path in files:
        if path.name == "delegate_stack__llm.json":
            continue
        assert detect(path) == "tapeagents", path.name
        done = imported(path)
        assert done.faults == [], path.name
        assert len(done.traces) == AGENTS.get(path.name, 1), path.name
        assert_nothing_is_lost(orjson.loads(path.read_bytes()), done)


def assert_nothing_is_lost(source: Any, done: Imported) -> None:
    """Each text of the source is somewhere in the traces, letter by letter."""
    kept = [event for events in done.events.values() for event in events]
    everything = orjson.dumps([kept, list(done.specs.values())])
    for text in texts(source):
        assert orjson.dumps(text)[1:-1] in everything, text[:200]


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        parsed = value.startswith('{"')  # a call's arguments, which are JSON by then
        return [] if parsed or TIME.fullmatch(value) or value in NAMED_OTHERWISE else [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in texts(item)]


def test_what_is_no_tape_is_refused(shared_data: Path) -> None:
    path = shared_data / "tapeagents" / "delegate_stack__llm.json"
    with pytest.raises(BadRequest, match="the formats are"):
        open_import(path)
    (fault,) = open_import(path, "tapeagents")
    assert fault == ImportFault("this is not a tape: a tape has a list of steps", None, "steps")


def test_how_the_tapes_ended(shared_data: Path) -> None:
    folder = shared_data / "tapeagents"

    def root(name: str) -> tuple[str, str | None]:
        state = imported(next(folder.glob(name))).root
        return state.status, state.summary

    assert root("delegate__start_tape.json") == ("stopped", "no steps: this tape has not been run")
    assert root("assets__failed_tape.json")[0] == "stopped"
    assert root("workarena*task5_*")[0] == "stopped"
    assert root("workarena*task9_*") == ("completed", "22")
    assert root("gaia*000.json") == ("completed", "17")
    assert root("data_science*") == ("completed", "Termination message received")


def test_the_observations_of_a_browser_are_results(shared_data: Path) -> None:
    done = imported(next((shared_data / "tapeagents").glob("workarena*task5_*")))
    tools = [m for m in done.messages() if m["role"] == "tool"]
    assert len(tools) == 20
    assert [bool(m.get("no_call")) for m in tools] == [True] + [False] * 19
    assert all("text" in m["content"].get("result", m["content"].get("error", {})) for m in tools)


@pytest.mark.parametrize("name", CLAUDE)
def test_claude_code(shared_data: Path, name: str) -> None:
    path = shared_data / "claude-code" / name
    assert detect(path) == "claude-code"
    done = imported(path)
    steps = [step for step in steps_of(open_import(path)) if isinstance(step, AppendEvent)]
    assert (len(done.traces), len(steps)) == CLAUDE[name]
    assert sorted((f.line, f.field) for f in done.faults) == (EDGE_CASES if name == "edge_cases.jsonl" else [])
    assert all("occurred_at" in step.event for step in steps)
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert_nothing_is_lost([row for row in rows if isinstance(row, dict)], done)


def test_a_plan_of_claude_code(shared_data: Path) -> None:
    done = imported(shared_data / "claude-code" / "todowrite_examples.jsonl")
    assert [g["status"] for g in done.root.goal_tree()["goals"]] == [
        *["completed"] * 2,
        "in_progress",
        *["pending"] * 3,
    ]


def test_sub_agents_of_claude_code(shared_data: Path) -> None:
    folder = shared_data / "claude-code" / "session-with-subagents"
    done = imported(folder)
    assert list(done.traces) == list(imported(folder / "session.jsonl").traces)
    web, jobs = (done.traces[f"{done.root.trace_id}-showcol{number}"] for number in (1, 2))
    assert "column layout" in [m["content"] for m in web.messages.values()][1]
    assert all(m["no_transcript"] for m in jobs.messages.values())
    assert [g["status"] for g in done.root.goals.values()] == ["completed", "completed"]


def test_a_second_import_is_the_same(shared_data: Path) -> None:
    for path in (shared_data / "claude-code" / "edge_cases.jsonl", shared_data / "tapeagents" / "rl_gsm8k__tapes.json"):
        assert list(open_import(path)) == list(open_import(path))


def test_files_of_opentelemetry_are_given_to_the_server(shared_data: Path) -> None:
    paths = [*(shared_data / "otlp-proto-examples").glob("*.json"), *(shared_data / "agent-prism").glob("*/*.json")]
    for path in paths:
        steps = list(open_import(path))
        assert {type(step) for step in steps} == {WireBody}
    assert len(paths) == 4
