"""Damaged files of every format: the readable parts are imported, the others reported, and no importer fails.

Imported means that each step passes the validation and the fold of a server: see tests/importers/folding.py.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.importers.folding import fold
from tests.importers.test_claude_stream import END, PAID, RUN
from tests.importers.test_codex import EXEC, Rollout
from tests.importers.test_forms import ANTHROPIC, GEMINI, INSPECT, MINI, OPENHANDS, RESPONSES, SWE, TAU2, gemini_rows
from tests.ingest.langsmith_bodies import run as langsmith_run
from tests.tracing import body_of
from tracewatch.errors import BadRequest
from tracewatch.importers import FORMATS, ImportFault, RestoreEvent, RestoreTrace, WireBody, open_import

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "The weather?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"Rome"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "assistant", "content": "Sunny.", "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
]


def _tape_step(kind: str, agent: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"id": f"id-{kind}", "agent": agent, "node": "n", "other": {}}, **fields}


def _session_row(number: int, kind: str, content: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"u{number}",
        "parentUuid": f"u{number - 1}" if number else None,
        "sessionId": "5555",
        "timestamp": f"2026-11-20T08:00:0{number}.000Z",
        "cwd": "/work",
        "message": {"role": kind, "content": content, "id": f"a{number}", "model": "m", "usage": {"output_tokens": 2}},
    }


TRACE = {"trace": {"trace_id": "t", "task": "x", "metadata": {"k": [1]}}}
STORED = {"event": "thought", "event_id": 1, "trace_id": "t", "ts": "2026-11-20T08:00:00.123Z", "x": 1}
TODOS = [{"content": "one", "status": "in_progress"}, {"content": "two", "status": "pending"}]
SEEDS: dict[str, tuple[Any, bool]] = {  # a value, and whether its items are lines
    "tracewatch": ([TRACE, STORED, {**STORED, "event_id": 2}], True),
    "openai": (CHAT, False),
    "tau-bench": (
        [
            {
                "task_id": 3,
                "trial": 0,
                "reward": 1.0,
                "traj": CHAT,
                "info": {"task": {"instruction": "i"}, "user_cost": 0.2},
            }
        ],
        False,
    ),
    "tapeagents": (
        {
            "metadata": {"id": "t", "error": None, "result": None},
            "context": None,
            "steps": [
                _tape_step("user", "", content="hello"),
                _tape_step("call", "root", agent_name="helper", content="help"),
                _tape_step("plan_thought", "root/helper", plan="p"),
                _tape_step("search_action", "root/helper", query="q"),
                _tape_step("search_result", "root/helper", text="r"),
                _tape_step("respond", "root/helper", content="done"),
                _tape_step("final_step", "root", reasoning="r"),
            ],
        },
        False,
    ),
    "claude-code": (
        [
            _session_row(0, "user", "List the files."),
            _session_row(
                1, "assistant", [{"type": "tool_use", "id": "c1", "name": "TodoWrite", "input": {"todos": TODOS}}]
            ),
            _session_row(2, "user", [{"type": "tool_result", "tool_use_id": "c1", "content": "ok"}]),
            _session_row(3, "assistant", [{"type": "tool_use", "id": "c2", "name": "Task", "input": {"prompt": "p"}}]),
            _session_row(4, "user", [{"type": "tool_result", "tool_use_id": "c2", "is_error": True, "content": []}]),
            _session_row(5, "assistant", [{"type": "text", "text": "Done."}]),
        ],
        True,
    ),
}
SEEDS |= {
    "claude-stream": ([*RUN, END | PAID], True),
    "codex": (Rollout().said("user", "q").call("c1", "shell", {"a": 1}, "b").event("task_complete").rows, True),
    "codex-exec": (EXEC, True),
    "openai-responses": (RESPONSES, False),
    "anthropic": (ANTHROPIC, False),
    "gemini": (GEMINI, False),
    "gemini-cli": (gemini_rows(), True),
    "tau2": (TAU2, False),
    "swe-agent": (SWE, False),
    "inspect": (INSPECT, False),
    "openhands": (OPENHANDS, False),
    "mini-swe-agent": (MINI, False),
    "otlp": ([body_of("chat", {"gen_ai.operation.name": "chat"})] * 2, True),
    "langsmith": ([langsmith_run("one"), langsmith_run("two", "tool", "one")], True),
}
GIVEN = ("otlp", "langsmith")  # whose mapping is the server's, and fuzzed there
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [-1, 0, 2**53, 2**63, 1e308, -0.0, "", "\0", "\ud83d\ude00", "t", "c1", [], {}, [[]], {"": {}}, "x" * 5000]
    ),
    st.text(max_size=6),
    st.integers(-(2**40), 2**40),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every ``(holder, key)`` in a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(value, key), *places(inner)]
    return found


@st.composite
def damaged(draw: st.DrawFn, format: str) -> bytes:
    """The seed of a format with some values replaced, removed, doubled or exchanged, and perhaps some bytes."""
    value, as_lines = copy.deepcopy(SEEDS[format])
    for _ in range(draw(st.integers(1, 4))):
        spots = places(value)
        if not spots:
            break
        holder, key = draw(st.sampled_from(range(len(spots))).map(spots.__getitem__))
        match draw(st.sampled_from(["replace", "remove", "double", "exchange"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(ODD))
            case "remove":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case _:
                other, place = draw(st.sampled_from(range(len(spots))).map(spots.__getitem__))
                holder[key] = copy.deepcopy(other[place])
    rows = value if as_lines and isinstance(value, list) else [value]
    data = b"\n".join(json.dumps(row).encode() for row in rows) + b"\n"  # lone surrogates are escapes there
    if draw(st.booleans()):
        return data
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 40)) :]


def import_it(data: bytes, format: str) -> None:
    """Import; the only way to fail is to be told that the file is not one of these."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        path.write_bytes(data)
        try:
            steps = list(open_import(path, format))
        except BadRequest as refusal:
            assert refusal.message
            return
    for step in steps:
        if isinstance(step, ImportFault):
            assert str(step)
    if not any(isinstance(step, RestoreTrace | RestoreEvent | WireBody) for step in steps):
        fold(steps)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_damaged_file_is_imported_or_refused(format: str, data: st.DataObject) -> None:
    contents = data.draw(damaged(format))
    for chosen in (format, "auto"):
        import_it(contents, chosen)


GEMINI_HEAD = {"sessionId": "s", "projectHash": "h"}
GEMINI_CALL = {"id": "c1", "name": "look", "status": "success", "result": [{"functionResponse": None}]}


@pytest.mark.parametrize(
    ("format", "rows"),
    [
        ("gemini-cli", [GEMINI_HEAD, {"id": "m1", "type": "gemini", "content": "", "toolCalls": [GEMINI_CALL]}]),
        ("gemini-cli", [GEMINI_HEAD, {"id": "", "type": "gemini", "content": "It says."}]),
        (
            "gemini-cli",
            [
                GEMINI_HEAD,
                {"id": "m1", "type": "user", "content": "q", "timestamp": "2026-03-01T09:00:00.000Z"},
                {"id": "m2", "type": "gemini", "content": "a", "timestamp": -1},
            ],
        ),
        ("codex", Rollout().said("user", "q").call("", "shell", {"a": 1}, "b").event("task_complete").rows),
        ("claude-code", [_session_row(0, "user", {}), _session_row(1, "assistant", "Done.")]),
        ("claude-code", [_session_row(0, "user", [{}]), _session_row(1, "assistant", {})]),
    ],
)
def test_damage_that_once_made_an_import_fail(format: str, rows: list[Any]) -> None:
    import_it(b"\n".join(orjson.dumps(row) for row in rows) + b"\n", format)


@settings(max_examples=60)
@given(contents=st.binary(max_size=200), format=st.sampled_from([*FORMATS, "auto"]))
def test_any_bytes_are_imported_or_refused(contents: bytes, format: str) -> None:
    import_it(contents, format)


@pytest.mark.parametrize("format", FORMATS)
def test_the_seeds_are_good_files(format: str, tmp_path: Path) -> None:
    value, as_lines = SEEDS[format]
    rows = value if as_lines else [value]
    path = tmp_path / "file.json"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows) + b"\n")
    steps = list(open_import(path))
    assert len(steps) > 2 or format in GIVEN
    assert steps
    assert not [str(step) for step in steps if isinstance(step, ImportFault)]
