"""Conversations in the forms of several APIs, benchmarks and agents: each is shown, and counted once."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.errors import BadRequest
from tracewatch.importers import detect, open_import

from .folding import Imported, Log, fold


def imported(folder: Path, value: Any, form: str, name: str = "file.json") -> Imported:
    path = folder / name
    path.write_bytes(orjson.dumps(value))
    assert detect(path) == form
    return fold(open_import(path))


def shown(done: Imported, trace_id: str | None = None) -> list[tuple[str, Any]]:
    """(role, text) of each message; of a tool (its name, its result or error)."""
    told = []
    for message in done.messages(trace_id):
        content = message["content"]
        if message["role"] == "tool":
            told.append((content["tool_name"], content.get("result", content.get("error"))))
        else:
            told.append((message.get("kind") or message["role"], content))
    return told


# --- the APIs of models ------------------------------------------------------------------------------------------


def test_anthropic_messages(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}}
    failed = {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "no"}], "is_error": True}
    think = {"type": "thinking", "thinking": "Hm"}
    usage = {"input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 2}
    messages = [
        {"role": "user", "content": "List them"},
        {
            "role": "assistant",
            "content": [think, {"type": "text", "text": "Looking."}, use],
            "usage": usage,
            "model": "m",
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.py"}]},
        {"role": "assistant", "content": [use | {"id": "t2", "name": "rm"}]},
        {"role": "user", "content": [failed, {"type": "text", "text": "and?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "One file."}]},
    ]
    done = imported(tmp_path, {"model": "m", "system": "Be brief", "messages": messages}, "anthropic")
    assert shown(done) == [
        ("system", "Be brief"),
        ("user", "List them"),
        ("thought", "Hm"),
        ("assistant", "Looking."),
        ("bash", "a.py"),
        ("rm", "no"),
        ("user", "and?"),
        ("assistant", "One file."),
    ]
    assert (done.root.task, done.root.status, done.root.summary) == ("List them", "completed", "One file.")
    assert done.root.tree_totals()["usage"]["input_tokens"] == 105
    assert "error" in done.messages()[5]["content"]


def test_the_items_of_responses(tmp_path: Path) -> None:
    items = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I ask"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "-3 C"},
        {"type": "web_search_call", "id": "w1", "action": {"query": "Oslo"}, "status": "completed"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is -3 C."}]},
    ]
    told = [
        ("user", "Weather?"),
        ("thought", "I ask"),
        ("weather", "-3 C"),
        ("web_search", None),
        ("assistant", "It is -3 C."),
    ]
    assert shown(imported(tmp_path, items, "openai-responses")) == told
    response = {"object": "response", "model": "m", "input": items[:1], "output": items[1:]}
    done = imported(tmp_path, response, "openai-responses")
    assert shown(done) == told
    assert (done.root.status, done.messages()[2]["content"]["arguments"]) == ("completed", {"city": "Oslo"})


def test_gemini_contents(tmp_path: Path) -> None:
    contents = [
        {"role": "user", "parts": [{"text": "hi"}]},
        {
            "role": "model",
            "parts": [{"text": "Hm", "thought": True}, {"functionCall": {"name": "f", "args": {"a": 1}}}],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"b": 2}}}]},
        {"role": "model", "parts": [{"text": "hello"}, {"text": "there"}]},
    ]
    told = [("user", "hi"), ("thought", "Hm"), ("f", {"b": 2}), ("assistant", "hello\nthere")]
    assert shown(imported(tmp_path, contents, "gemini")) == told
    request = {"contents": contents, "systemInstruction": {"parts": [{"text": "Be kind"}]}}
    assert shown(imported(tmp_path, request, "gemini"))[-4:] == told


def test_chat_messages_of_newer_models(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "Patch it"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "patch", "input": "***"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
        {"role": "assistant", "content": None, "refusal": "I can't."},
        {"role": "assistant", "content": "", "reasoning": "think"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "Spoken", "data": "AAAA"}},
    ]
    assert shown(imported(tmp_path, chat, "openai"))[1:] == [
        ("patch", "done"),
        ("assistant", "I can't."),
        ("thought", "think"),
        ("assistant", "No."),
        ("assistant", "Spoken"),
    ]


# --- benchmarks and agents ---------------------------------------------------------------------------------------


ANTHROPIC = [
    {"role": "user", "content": "List them"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "bash", "input": {"c": "ls"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.py"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "One file."}]},
]
RESPONSES = [
    {"role": "user", "content": "Weather?"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I ask"}]},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "-3 C"},
]
GEMINI = [
    {"role": "model", "parts": [{"text": "Hm", "thought": True}, {"functionCall": {"name": "f", "args": {"a": 1}}}]},
    {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"b": 2}}}]},
]
TAU2 = {"simulations": [{"task_id": "t", "messages": ANTHROPIC, "termination_reason": "user_stop", "reward_info": {}}]}
SWE = {"trajectory": [{"response": "x", "action": "ls", "observation": "a"}], "history": [], "info": {}}
OPENHANDS = [
    {"id": 1, "source": "agent", "action": "run", "args": {"command": "ls", "thought": "Look"}},
    {"id": 2, "source": "agent", "cause": 1, "observation": "run", "content": "a.py", "extras": {}},
    {"kind": "ActionEvent", "source": "agent", "tool_name": "x", "tool_call_id": "c1", "action": {"command": "ls"}},
]


def test_swe_agent(tmp_path: Path) -> None:
    turn = {
        "response": "Let me look.\n\nls",
        "thought": "Let me look.",
        "action": "ls",
        "observation": "a.py",
        "query": [],
    }
    value = {
        "trajectory": [turn | {"execution_time": 0.5}, turn | {"action": "submit", "observation": "diff"}],
        "history": [
            {"role": "system", "content": "You fix"},
            {"role": "user", "content": "Fix #1"},
            {"role": "assistant"},
        ],
        "info": {
            "exit_status": "submitted",
            "submission": "diff --git",
            "model_stats": {"instance_cost": 0.5, "tokens_sent": 100, "tokens_received": 20},
        },
        "environment": "swe_main",
    }
    done = imported(tmp_path, value, "swe-agent", "repo-1.traj")
    assert shown(done)[:4] == [
        ("system", "You fix"),
        ("user", "Fix #1"),
        ("assistant", "Let me look.\n\nls"),
        ("action", "a.py"),
    ]
    assert (done.root.task, done.root.status, done.root.summary) == ("Fix #1", "completed", "diff --git")
    assert (done.root.total_cost, done.root.total_tokens) == (0.5, 120)
    assert done.root.metadata["instance"] == "repo-1"
    value["info"] = {"exit_status": "exit_cost"}
    assert imported(tmp_path, value, "swe-agent").root.status == "stopped"


def test_tau2(tmp_path: Path) -> None:
    def run(reward: float | None, why: str = "user_stop", **more: Any) -> dict[str, Any]:
        call = {"id": "c1", "name": "find", "arguments": {"id": 7}, "requestor": "assistant"}
        tool = {"id": "c1", "role": "tool", "content": "ok", "error": False}
        messages = [
            {"role": "assistant", "content": "Hi!", "turn_idx": 0, "timestamp": "2026-03-01T09:00:00"},
            {"role": "user", "content": "Cancel it", "timestamp": "2026-03-01T09:00:05"},
            {"role": "assistant", "content": None, "tool_calls": [call], "cost": 0.01,
             "usage": {"prompt_tokens": 10, "completion_tokens": 2}},
            {"role": "tool", "tool_messages": [tool]},
            {"role": "assistant", "content": "Done.", "timestamp": "2026-03-01T09:00:09"},
        ]  # fmt: skip
        info = None if reward is None else {"reward": reward}
        return {
            "id": "s",
            "task_id": "t1",
            "messages": messages,
            "termination_reason": why,
            "reward_info": info,
            **more,
        }

    runs = [run(1.0), run(0.0), run(None, "max_steps")]
    done = imported(tmp_path, {"timestamp": "x", "info": {}, "tasks": [{"id": "t1"}], "simulations": runs}, "tau2")
    assert done.statuses == ["completed", "completed", "failed", "stopped"]
    assert [(g["summary"], len(g["sub_trace_ids"])) for g in done.root.goals.values()] == [("1 of 3 passed", 3)]
    first = list(done.traces)[1]
    assert shown(done, first) == [("assistant", "Hi!"), ("user", "Cancel it"), ("find", "ok"), ("assistant", "Done.")]
    assert done.root.tree_totals()["total_cost"] == pytest.approx(0.03)
    assert imported(tmp_path, run(1.0), "tau2").statuses == ["completed"]


INSPECT = {
    "version": 2,
    "status": "success",
    "eval": {"task": "addition", "model": "m", "eval_id": "e1", "created": "2026-03-01T09:00:00+00:00"},
    "stats": {"started_at": "2026-03-01T09:00:01+00:00", "completed_at": "2026-03-01T09:00:09+00:00"},
    "samples": [
        {
            "id": 1,
            "epoch": 1,
            "uuid": "u1",
            "input": "1 + 1?",
            "target": "2",
            "messages": [
                {"id": "m1", "role": "user", "content": "1 + 1?"},
                {
                    "id": "m2",
                    "role": "assistant",
                    "content": [{"type": "reasoning", "reasoning": "Easy"}, {"type": "text", "text": "I add"}],
                    "tool_calls": [{"id": "c1", "function": "add", "arguments": {"x": 1}}],
                },
                {"role": "tool", "tool_call_id": "c1", "function": "add", "content": "", "error": {"message": "no"}},
                {"id": "m3", "role": "assistant", "content": "2"},
            ],
            "scores": {"exact": {"value": "C"}},
            "events": [
                {
                    "event": "model",
                    "timestamp": "2026-03-01T09:00:02+00:00",
                    "output": {
                        "model": "m",
                        "choices": [{"message": {"id": "m2"}}],
                        "usage": {
                            "input_tokens": 5,
                            "output_tokens": 2,
                            "input_tokens_cache_read": 50,
                            "total_tokens": 57,
                        },
                    },
                }
            ],
        },
        {"id": 2, "epoch": 1, "input": "?", "messages": [], "error": {"message": "boom"}, "events": []},
        {"id": 3, "epoch": 1, "input": "?", "messages": [], "limit": {"type": "token", "limit": 9}, "events": []},
    ],
}


@pytest.mark.parametrize("form", ["json", "eval"])
def test_inspect(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"log.{form}"
    if form == "json":
        path.write_bytes(orjson.dumps(INSPECT))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", orjson.dumps({k: v for k, v in INSPECT.items() if k != "samples"}))
            for sample in INSPECT["samples"]:  # type: ignore[attr-defined]
                archive.writestr(f"samples/{sample['id']}_epoch_1.json", orjson.dumps(sample))
    assert detect(path) == "inspect"
    done = fold(open_import(path))
    assert done.faults == []
    assert list(done.traces) == ["inspect-e1", "inspect-e1-u1", "inspect-e1-0002", "inspect-e1-0003"]
    assert done.statuses == ["completed", "completed", "failed", "stopped"]
    assert shown(done, "inspect-e1-u1") == [
        ("user", "1 + 1?"),
        ("thought", "Easy"),
        ("assistant", "I add"),
        ("add", "no"),
        ("assistant", "2"),
    ]
    assert done.traces["inspect-e1-u1"].total_tokens == 57
    assert (done.traces["inspect-e1-u1"].summary, done.traces["inspect-e1-0002"].error) == ("exact: C", "boom")


def test_openhands_of_both_versions(tmp_path: Path) -> None:
    metrics = {"accumulated_cost": 0.02, "accumulated_token_usage": {"prompt_tokens": 10, "completion_tokens": 2}}
    old = [
        {
            "id": 0,
            "source": "user",
            "action": "message",
            "args": {"content": "Fix it"},
            "timestamp": "2026-03-01T09:00:00",
        },
        {
            "id": 1,
            "source": "agent",
            "action": "run",
            "args": {"command": "ls", "thought": "Look"},
            "llm_metrics": metrics,
        },
        {
            "id": 2,
            "source": "agent",
            "cause": 1,
            "observation": "run",
            "content": "a.py",
            "extras": {},
            "success": True,
        },
        {"id": 3, "source": "agent", "action": "finish", "args": {"final_thought": "Fixed."}, "llm_metrics": metrics},
    ]
    told = [("user", "Fix it"), ("thought", "Look"), ("run", "a.py"), ("assistant", "Fixed.")]
    for value in (old, {"instance_id": "i", "history": old}):
        done = imported(tmp_path, value, "openhands")
        assert shown(done) == told
        assert (done.root.task, done.root.status, done.root.total_cost, done.root.total_tokens) == (
            "Fix it",
            "completed",
            0.02,
            12,
        )
    assert imported(tmp_path, old[:3], "openhands").root.status == "stopped"
    text = [{"type": "text", "text": "Fix it"}]
    new = [
        {"kind": "MessageEvent", "source": "user", "llm_message": {"role": "user", "content": text}},
        {"kind": "ActionEvent", "source": "agent", "tool_name": "terminal", "tool_call_id": "c1",
         "thought": [{"type": "text", "text": "Look"}], "action": {"kind": "TerminalAction", "command": "ls"}},
        {"kind": "ObservationEvent", "source": "environment", "tool_name": "terminal", "tool_call_id": "c1",
         "observation": {"kind": "TerminalObservation", "content": [{"type": "text", "text": "a.py"}]}},
        {"kind": "MessageEvent", "source": "agent", "llm_message": {"content": [{"text": "Fixed."}]}},
    ]  # fmt: skip
    done = imported(tmp_path, new, "openhands")
    assert shown(done) == [*told[:2], ("terminal", "a.py"), told[3]]
    assert (done.root.status, done.root.summary) == ("completed", "Fixed.")


def cut(value: Any, places: int) -> Any:
    """The file as it was ``places`` turns, events or samples before its end, while the run went on."""
    value = orjson.loads(orjson.dumps(value))
    if isinstance(value, list):
        return value[: len(value) - places]
    key = next(key for key in ("trajectory", "messages", "simulations", "samples") if isinstance(value.get(key), list))
    value[key] = value[key][: len(value[key]) - places]
    if places and "trajectory" in value:
        value["info"] |= {"exit_status": None, "submission": None}
        value["info"]["model_stats"] = {"instance_cost": 0.1, "tokens_sent": 5, "tokens_received": 1}
    if places and "status" in value:
        value["status"] = "started"
    return value


GROWING = {
    "swe-agent": {
        "trajectory": [
            {"response": "I look", "action": "ls", "observation": "a.py", "execution_time": 0.2514},
            {"response": "I fix", "action": "sed", "observation": "", "execution_time": 0.1},
            {"response": "I submit", "action": "submit", "observation": "", "execution_time": 0.1},
        ],
        "history": [{"role": "system", "content": "You fix"}, {"role": "user", "content": "Fix #1"}],
        "info": {
            "exit_status": "submitted",
            "submission": "diff",
            "model_stats": {"instance_cost": 0.3, "tokens_sent": 100, "tokens_received": 9},
        },
    },
    "openhands": [
        {"id": n, "source": "agent", "action": "run", "args": {"command": n}, "timestamp": f"2026-03-01T09:00:0{n}"}
        for n in range(4)
    ],
    "tau2": {
        "timestamp": "2026-03-01T09:00:00",
        "info": {"model_stats": {}},
        "simulations": [
            {"id": f"s{n}", "task_id": f"t{n}", "messages": [{"role": "user", "content": f"hi {n}"}],
             "termination_reason": "user_stop", "reward_info": {"reward": 1.0}}
            for n in range(3)
        ],
    },
    "inspect": INSPECT,
}  # fmt: skip


MINI = {
    "info": {
        "mini_version": "2.4.6",
        "model_stats": {"instance_cost": 0.03},
        "exit_status": "Submitted",
        "submission": "diff",
    },
    "messages": [
        {"role": "system", "content": "You fix"},
        {"role": "user", "content": "Fix #1"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}],
            "extra": {"actions": [{"command": "ls", "tool_call_id": "c1"}], "cost": 0.01, "timestamp": 1772355600.0},
        },
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": "a.py",
            "extra": {"returncode": 0, "timestamp": 1772355601.0},
        },
        {"role": "user", "content": "One action, please", "extra": {"interrupt_type": "FormatError"}},
        {
            "role": "assistant",
            "content": "I fix\n```bash\nsed\n```",
            "extra": {"actions": [{"command": "sed"}], "cost": 0.02, "timestamp": 1772355602.0},
        },
        {"role": "user", "content": "fixed", "extra": {"returncode": 1, "timestamp": 1772355603.0}},
        {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted", "submission": "diff"}},
    ],
    "trajectory_format": "mini-swe-agent-1.1",
}
GROWING["mini-swe-agent"] = MINI


def test_mini_swe_agent_of_both_versions(tmp_path: Path) -> None:
    told = [("system", "You fix"), ("user", "Fix #1"), ("bash", "a.py"), ("user", "One action, please")]
    done = imported(tmp_path, MINI, "mini-swe-agent")
    assert shown(done) == [*told, ("assistant", "I fix\n```bash\nsed\n```"), ("bash", "fixed")]
    assert (done.root.status, done.root.summary, done.root.task) == ("completed", "diff", "Fix #1")
    assert done.root.total_cost == pytest.approx(0.03)
    texts = [
        "You fix",
        "Fix #1",
        "I look\n```bash\nls\n```",
        "a.py",
        "Both\n```bash\na\n```\n```bash\nb\n```",
        "One only",
    ]
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    old = {"info": {"mini_version": "1.14", "exit_status": "KeyError", "model_stats": {"instance_cost": 0.5}}}
    rows = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    done = imported(tmp_path, old | {"messages": rows, "trajectory_format": "mini-swe-agent-1"}, "mini-swe-agent")
    assert shown(done)[3:] == [("bash", "a.py"), ("assistant", texts[4]), ("user", "One only")]
    assert (done.root.status, done.root.summary, done.root.total_cost) == ("stopped", "KeyError", 0.5)
    crash = {"role": "exit", "content": "x", "extra": {"exit_status": "KeyError", "exception_str": "no such key"}}
    done = imported(tmp_path, old | {"messages": [*rows, crash]}, "mini-swe-agent")
    assert (done.root.status, done.root.error) == ("failed", "no such key")


@pytest.mark.parametrize("name", GROWING)
def test_a_file_that_was_written_anew_with_more_adds_what_is_new(tmp_path: Path, name: str) -> None:
    log, path, news = Log(), tmp_path / "run.json", []
    for places in (2, 1, 0, 0, 1):
        path.write_bytes(orjson.dumps(cut(GROWING[name], places)))
        assert detect(path) == name
        news.append(log.take(open_import(path)))
    assert news[0] and news[1] and news[2]
    path.write_bytes(orjson.dumps(GROWING[name]))
    at_once = fold(open_import(path))
    assert list(log.done.traces) == list(at_once.traces)
    for trace_id, state in at_once.traces.items():
        assert shown(log.done, trace_id) == shown(at_once, trace_id)
        mine = log.done.traces[trace_id]
        assert mine.total_tokens == state.total_tokens
        assert round(mine.total_cost or 0.0, 6) == round(state.total_cost or 0.0, 6)
    assert log.take(open_import(path)) == news[3] == news[4] == 0
    assert log.done.root.status == at_once.root.status


def gemini_rows() -> list[dict[str, Any]]:
    call: dict[str, Any] = {"id": "c1", "name": "read_file", "args": {"path": "a"}, "status": "executing"}
    answer = {"functionResponse": {"id": "c1", "name": "read_file", "response": {"output": "text"}}}
    model = {"id": "m2", "timestamp": "2026-03-01T09:00:02.000Z", "type": "gemini", "content": "", "toolCalls": [call]}
    tokens = {"input": 100, "output": 5, "cached": 80, "thoughts": 7, "tool": 0, "total": 112}
    return [
        {
            "sessionId": "s1",
            "projectHash": "h",
            "startTime": "2026-03-01T09:00:00.000Z",
            "lastUpdated": "x",
            "kind": "main",
        },
        {"id": "m1", "timestamp": "2026-03-01T09:00:01.000Z", "type": "user", "content": [{"text": "Read it"}]},
        model | {"thoughts": [{"subject": "Plan", "description": "I read"}], "tokens": tokens, "model": "gemini-3"},
        model
        | {"toolCalls": [call | {"status": "success", "result": [answer]}], "tokens": tokens, "model": "gemini-3"},
        {"$set": {"lastUpdated": "y"}},
        {"id": "m3", "timestamp": "2026-03-01T09:00:04.000Z", "type": "gemini", "content": "It says text."},
    ]


def test_gemini_cli(tmp_path: Path) -> None:
    rows, log = gemini_rows(), Log()
    path = tmp_path / "tmp" / "p" / "chats" / "session-1.jsonl"
    path.parent.mkdir(parents=True)
    for count in range(1, len(rows) + 1):
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows[:count]))
        log.take(open_import(path, "gemini-cli"))
        assert log.take(open_import(path)) == 0
    assert detect(path) == detect(tmp_path) == "gemini-cli"
    told = [("user", "Read it"), ("thought", "Plan\nI read"), ("read_file", "text"), ("assistant", "It says text.")]
    for done in (log.done, fold(open_import(tmp_path))):
        assert list(done.traces) == ["gc-s1"]
        assert shown(done) == told
        assert (done.root.status, done.root.task, done.root.total_tokens) == ("completed", "Read it", 112)
        assert done.root.tree_totals()["usage"]["reasoning_tokens"] == 7
    rows.append({"$rewindTo": "m2"})
    whole = rows[0] | {"messages": [rows[1], rows[3], rows[5]]}
    assert shown(imported(tmp_path, whole, "gemini-cli", "old.json")) == [told[0], *told[2:]]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert [m.get("left") for m in fold(open_import(path)).messages()] == [None, None, True, True]


def real_gemini_rows() -> list[dict[str, Any]]:
    """As version 0.61 writes them: the program's own words first, and what a tool gave once more as the user's."""
    rows = gemini_rows()
    context = {
        "id": "m0",
        "type": "user",
        "content": [{"text": "<session_context>\nToday is Monday.</session_context>"}],
    }
    first = rows[3] | {"toolCalls": [], "content": "", "thoughts": []}
    (call,) = rows[3]["toolCalls"]
    given = {"id": "m2r", "timestamp": "2026-03-01T09:00:03.000Z", "type": "user", "content": call["result"]}
    return [rows[0], {"$set": {"messages": [context]}}, rows[1], first, rows[4], rows[3], given, rows[5]]


def test_a_chat_of_gemini_cli_as_it_is_written(tmp_path: Path) -> None:
    rows = real_gemini_rows()
    path = tmp_path / "p" / "chats" / "session-1.jsonl"
    told = [("system", rows[1]["$set"]["messages"][0]["content"][0]["text"]), ("user", "Read it")]
    told += [("read_file", "text"), ("assistant", "It says text.")]

    def fresh(*more: dict[str, Any], name: str = "session-1.jsonl") -> Imported:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in (*rows, *more)))
        return fold(open_import(tmp_path))

    done = fresh()
    assert shown(done) == told
    assert (done.root.task, done.root.status, done.root.total_tokens) == ("Read it", "completed", 112)
    nothing = {
        "id": "m4",
        "timestamp": "2026-03-01T09:00:05.000Z",
        "type": "gemini",
        "content": "",
        "tokens": {"input": 9},
    }
    assert shown(fresh(nothing))[4:] == [("assistant", "")]  # which stays as it is
    again = {"$set": {"messages": [rows[1]["$set"]["messages"][0], rows[2], rows[5], rows[6], rows[7]]}}
    more = rows[2] | {"id": "m5", "content": [{"text": "Again"}], "timestamp": "2026-03-01T09:01:00.000Z"}
    resumed: list[dict[str, Any]] = [{"$set": {"sessionId": "s1"}}, again, more]
    done = fresh(*resumed)
    assert shown(done) == [*told, ("user", "Again")]
    assert (done.root.status, done.root.task) == ("stopped", "Read it")
    rows = rows[:2]
    assert list(fresh(name="session-2.jsonl").traces) == ["gc-s1"]  # a second file without a word of the user's
    path.unlink()
    assert list(fold(open_import(tmp_path)).traces) == []


@pytest.mark.parametrize("value", [{"lines": []}, [{"name": "x"}], {"kind": "span"}, [1, 2]])
def test_a_form_that_is_not_known_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "what.json"
    path.write_bytes(orjson.dumps(value))
    with pytest.raises(BadRequest, match="not known here; the formats are tracewatch, openai"):
        detect(path)
