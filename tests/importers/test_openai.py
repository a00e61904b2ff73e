"""OpenAI chat messages: every form of file, tool calls paired with their results, faults with their paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .folding import import_json, import_lines, import_text

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is the weather?\nIn Rome."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
        {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "not json"}},
    ],
}
RESULT1 = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
RESULT2 = {"role": "tool", "tool_call_id": "c2", "name": "clock", "content": [{"type": "text", "text": "noon"}]}
ANSWER = {"role": "assistant", "content": "Sunny."}
CHAT = [SYSTEM, USER, CALL, RESULT2, RESULT1, ANSWER]


def test_a_call_and_its_result_are_one_message(tmp_path: Path) -> None:
    done = import_json(tmp_path, CHAT)
    assert done.faults == []
    assert done.root.task == "What is the weather?\nIn Rome."
    assert done.names() == [
        *("message_added",) * 4,  # system, user, two calls
        *("message_updated",) * 2,
        "message_added",
        "trace_completed",
    ]
    running = [e["message"] for e in done.events[done.root.trace_id] if e["event"] == "message_added"][2:4]
    assert [m["status"] for m in running] == ["running", "running"]
    assert [m["content"] for m in running] == [
        {"tool_name": "weather", "arguments": {"city": "Rome"}},
        {"tool_name": "clock", "arguments": "not json"},
    ]
    system, user, weather, clock, answer = done.messages()
    assert [m["role"] for m in (system, user, weather, clock, answer)] == [
        "system",
        "user",
        "tool",
        "tool",
        "assistant",
    ]
    assert weather["content"] == {"tool_name": "weather", "arguments": {"city": "Rome"}, "result": "sunny"}
    assert clock["content"]["result"] == [{"type": "text", "text": "noon"}]
    assert [weather["tool_call_id"], clock["tool_call_id"]] == ["c1", "c2"]
    assert (done.root.status, done.root.summary) == ("completed", "Sunny.")


@pytest.mark.parametrize("form", ["list", "object", "objects", "jsonl lists", "jsonl objects", "jsonl messages"])
def test_every_form_of_file_gives_the_same_conversation(tmp_path: Path, form: str) -> None:
    whole: dict[str, Any] = {"list": CHAT, "object": {"messages": CHAT}, "objects": [{"messages": CHAT}]}
    rows: dict[str, list[Any]] = {
        "jsonl lists": [CHAT, CHAT],
        "jsonl objects": [{"messages": CHAT}] * 2,
        "jsonl messages": CHAT,
    }
    done = import_json(tmp_path, whole[form]) if form in whole else import_lines(tmp_path, *rows[form])
    assert done.faults == []
    assert len(done.traces) == (2 if form in ("jsonl lists", "jsonl objects") else 1)
    plain = import_json(tmp_path, CHAT)
    for trace_id in done.traces:
        assert done.messages(trace_id) == plain.messages()


def test_ids_come_from_the_contents(tmp_path: Path) -> None:
    first = import_lines(tmp_path, CHAT, CHAT)
    again = import_lines(tmp_path, CHAT, CHAT)
    other = import_lines(tmp_path, CHAT, [*CHAT, USER])
    assert list(first.traces) == list(again.traces)
    assert first.events == again.events
    assert not set(first.traces) & set(other.traces)
    assert [trace_id[-5:] for trace_id in first.traces] == ["-0001", "-0002"]


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    chat = [
        {**USER, "name": "ann", "weight": 0},
        {**CALL, "refusal": None, "reasoning_content": "I should look."},
        {**RESULT1, "extra": 1},
        {**RESULT2, "x": 2},
    ]
    done = import_json(tmp_path, {"messages": chat, "model": "gpt", "tools": [{"a": 1}]})
    user, thought, weather, clock = done.messages()
    assert user["source"] == {"name": "ann", "weight": 0}
    assert (thought["content"], thought["kind"]) == ("I should look.", "thought")
    assert weather["source"] == {"refusal": None}
    assert weather["result_source"] == {"extra": 1}
    assert clock["result_source"] == {"x": 2}
    source = {"model": "gpt", "tools": [{"a": 1}]}
    assert done.root.metadata == {"format": "openai", "source": source, "times": "none"}


def test_the_old_function_calls_are_paired_by_name(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    done = import_json(tmp_path, [USER, call, {"role": "function", "name": "f", "content": "1"}])
    assert done.messages()[1]["content"] == {"tool_name": "f", "arguments": {}, "result": "1"}


def test_a_conversation_is_completed_by_an_answer_and_by_nothing_else(tmp_path: Path) -> None:
    def status(*messages: Any) -> str:
        return import_json(tmp_path, list(messages)).root.status

    assert status(USER, ANSWER) == status(USER, CALL, RESULT1, RESULT2, ANSWER) == "completed"
    assert status(USER, {"role": "assistant", "content": None, "refusal": "No."}) == "completed"
    assert {status(*cut) for cut in ([USER], [USER, CALL], [USER, CALL, RESULT1], [USER, ANSWER, USER])} == {"stopped"}
    assert import_json(tmp_path, [USER]).root.summary == "the conversation ends before the assistant has answered"


def test_results_without_a_call_and_calls_without_a_result_say_so(tmp_path: Path) -> None:
    done = import_json(
        tmp_path, [USER, {"role": "tool", "tool_call_id": "c9", "name": "f", "content": "1"}, CALL, RESULT1]
    )
    _, orphan, _, clock = done.messages()
    assert orphan["content"] == {"tool_name": "f", "result": "1"}
    assert orphan["no_call"] is True
    assert clock["no_result"] is True
    assert "result" not in clock["content"]


def test_content_parts_stay_as_they_are(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
    done = import_json(tmp_path, [{"role": "user", "content": parts}])
    (message,) = done.messages()
    assert message["content"] == parts
    assert message["description"] == "Look:"
    assert done.root.task == "Look:"


def test_faults_name_the_field_and_the_rest_is_imported(tmp_path: Path) -> None:
    broken = {"role": "assistant", "content": "x", "tool_calls": [{"id": "c"}, 4]}
    done = import_json(tmp_path, {"messages": [USER, 7, {"content": "who?"}, broken, {**ANSWER, "tool_calls": "no"}]})
    assert done.said == [
        "messages[1]: a message is a JSON object",
        "messages[2].role: must be a role such as user or assistant",
        "messages[3].tool_calls[0].function: must be an object with name and arguments",
        "messages[3].tool_calls[1].function: must be an object with name and arguments",
        "messages[4].tool_calls: must be a list",
    ]
    assert [m["content"] for m in done.messages()] == [USER["content"], "x", "Sunny."]
    kept = [e for e in done.events[done.root.trace_id] if e["event"] == "import.message"]
    assert [e["message"] for e in kept] == [{"content": "who?"}]


def test_faults_name_the_line_and_the_rest_is_imported(tmp_path: Path) -> None:
    done = import_lines(tmp_path, CHAT, "{broken", {"messages": 4}, [USER, 5], {"messages": [USER]})
    assert [fault.line for fault in done.faults] == [2, 3, 4]
    assert done.said[0].startswith("line 2: this is not JSON")
    assert done.said[1].startswith("line 3: messages: neither a list of chat messages")
    assert done.said[2] == "line 4: [1]: a message is a JSON object"
    assert len(done.traces) == 3


def test_a_conversation_nobody_began_has_a_task(tmp_path: Path) -> None:
    assert import_json(tmp_path, [{"role": "assistant", "content": None}]).root.task == "(no task)"
    assert import_json(tmp_path, [SYSTEM, ANSWER]).root.task == "Be brief."
    long = import_json(tmp_path, [{"role": "user", "content": "x" * 20_000}])
    assert len(long.root.task) == 10_000
    assert long.messages()[0]["content"] == "x" * 20_000


def test_what_python_writes_as_json_is_read(tmp_path: Path) -> None:
    text = '[{"role": "user", "content": "half \\ud83d", "score": NaN, "big": 123456789012345678901234567890}]'
    done = import_text(tmp_path, text)
    (message,) = done.messages()
    assert message["content"] == "half \ufffd"
    assert message["source"] == {"score": "NaN", "big": "123456789012345678901234567890"}


def test_what_mini_swe_agent_adds_is_read(tmp_path: Path) -> None:
    """Times, usage, the cost of the whole run, and that a limit stopped it."""
    response = {"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 5}}
    run = {
        "info": {"model_stats": {"instance_cost": 0.31}, "exit_status": "LimitsExceeded"},
        "messages": [
            SYSTEM,
            USER | {"timestamp": 1772355600.0},
            ANSWER | {"timestamp": 1772355602.0, "extra": {"response": response}},
            ANSWER | {"timestamp": 1772355604.0, "extra": {"response": response}},
        ],
    }
    done = import_json(tmp_path, run)
    assert (done.root.status, done.root.summary) == ("stopped", "LimitsExceeded")
    assert (done.root.started_at, done.root.ended_at) == ("2026-03-01T09:00:00.000Z", "2026-03-01T09:00:04.000Z")
    assert [m.get("cost") for m in done.messages()] == [None, None, 0.31, 0.0]
    assert done.root.total_cost == 0.31
    assert done.root.usage == {"input_tokens": 200, "output_tokens": 10}
    run["info"] = {"exit_status": "Submitted", "mini_version": "1.14"}
    done = import_json(tmp_path, run)
    assert (done.root.status, done.root.total_cost) == ("completed", None)
