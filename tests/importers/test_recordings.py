"""The recordings of coding agents in ../shared/data/wire give what their truth.json says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.importers import detect, open_import

from .folding import Imported, fold

RECORDINGS = {
    "claude-code-tasks": ("home", "claude-code", "cc-fb195f5f-8c70-4e0b-90c9-d620a28489c0"),
    "codex-exec": ("sessions", "codex", "cx-01a22ad2-20a8-7be2-88be-4d21c45ed42e"),
}
PARTS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_tokens",
    "reasoning": "reasoning_tokens",
    "cache_write": "cache_write_tokens",
}


def truth_of(folder: Path) -> dict[str, Any]:
    truth: dict[str, Any] = orjson.loads((folder / "truth.json").read_bytes())
    return truth


def check(done: Imported, name: str, truth: dict[str, Any]) -> None:
    """Compare what was imported with what the run itself saw."""
    root = done.root
    assert root.trace_id == RECORDINGS[name][2]
    assert done.statuses == ["completed"] * (1 + truth["sub_traces"])
    tools = [m for t in done.traces for m in done.messages(t) if m["role"] == "tool"]
    told = {m["tool_call_id"]: m for m in tools}
    steps = [step for step in truth["steps"] if step["kind"] == "tool"]
    assert sorted(told) == sorted(step["id"] for step in steps)
    assert len(tools) == truth["totals"]["tool_calls"]
    # A call that the user denied has an error in the transcript, and none in the hooks that the truth is from
    denied = [m for m in tools if "has been denied" in str(m["content"].get("error"))]
    assert sum("error" in m["content"] for m in tools) - len(denied) == truth["totals"]["tool_errors"]
    usage = root.tree_totals()["usage"]
    tokens = truth["totals"]["tokens"]
    if name.startswith("claude"):  # its API counts what goes through the cache beside the input, and no reasoning
        tokens = {**tokens, "input": tokens["input"] + tokens["cache_read"] + tokens["cache_write"], "reasoning": 0}
    assert {part: usage.get(ours, 0) for part, ours in PARTS.items()} == tokens
    answers = {str(m["tokens"]) for t in done.traces for m in done.messages(t) if "tokens" in m}
    assert answers
    goals = [[g["description"], g["status"]] for g in root.goals.values()]
    assert goals == truth.get("goals", [])


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_imported_as_it_was(shared_data: Path, name: str) -> None:
    folder = shared_data / "wire" / name
    source, form, _ = RECORDINGS[name]
    assert detect(folder / source) == form
    done = fold(open_import(folder / source))
    assert done.faults == []
    check(done, name, truth_of(folder))


def test_the_stream_of_a_run_is_the_run_of_its_transcript(shared_data: Path) -> None:
    folder = shared_data / "wire" / "claude-code-tasks"
    assert detect(folder / "stdout.jsonl") == "claude-stream"
    streamed, kept = fold(open_import(folder / "stdout.jsonl")), fold(open_import(folder / "home"))
    assert set(streamed.traces) == set(kept.traces)
    assert streamed.faults == []
    for trace_id, state in streamed.traces.items():
        others = kept.traces[trace_id].messages
        for key, message in state.messages.items():
            assert message["content"] == others[key]["content"], key
    assert sum(state.total_cost or 0 for state in streamed.traces.values()) == pytest.approx(0.14436)
    assert streamed.root.goal_tree()["goals"][0]["description"] == "Look around"
    texts = [e for e in streamed.events[streamed.root.trace_id] if e["event"] == "message_updated" and "append" in e]
    assert len(texts) > 20


def test_what_codex_exec_prints_is_its_thread(shared_data: Path) -> None:
    folder = shared_data / "wire" / "codex-exec"
    assert detect(folder / "stdout.jsonl") == "codex-exec"
    done = fold(open_import(folder / "stdout.jsonl"))
    assert (done.root.trace_id, done.root.status) == (f"{RECORDINGS['codex-exec'][2]}-exec", "completed")
    assert done.root.total_tokens == 16401
    tools = [m["content"]["tool_name"] for m in done.messages() if m["role"] == "tool"]
    assert tools == [*["command_execution"] * 3, "spawn_agent", "wait", "file_change", "command_execution"]
