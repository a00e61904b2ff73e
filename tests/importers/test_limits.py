"""Values that are too large or too deep for one event are kept beside it, and nothing of them is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracewatch.importers.steps import Step
from tracewatch.importers.traces import TraceWriter
from tracewatch.model.fit import PART_BYTES, text_parts

from .folding import fold, import_json, import_text

LARGE = "".join(f"{i} line of the page\n" for i in range(22_000))  # 500 KB


def test_a_long_text_is_kept_whole_beside_the_log(tmp_path: Path) -> None:
    done = import_json(tmp_path, [{"role": "user", "content": LARGE}, {"role": "assistant", "content": "ok"}])
    user, answer = done.messages()
    assert user["content"] == LARGE
    assert user["description"] == "0 line of the page"
    assert answer["content"] == "ok"
    first = done.events[done.root.trace_id][0]["message"]
    assert (first["status"], first["content"]["bytes"]) == ("complete", len(LARGE))
    assert done.names().count("message_updated") == 0


def test_a_text_above_what_a_message_holds_is_kept_whole_as_well(tmp_path: Path) -> None:
    text = "\x01" * 5_000_000
    done = import_json(tmp_path, [{"role": "user", "content": text, "name": "ann"}])
    (message,) = done.messages()
    assert (message["content"], message["source"]) == (text, {"name": "ann"})


def test_a_large_result_is_kept_whole_in_its_place(tmp_path: Path) -> None:
    call = {"id": "c1", "function": {"name": "fetch", "arguments": '{"url":"x"}'}}
    done = import_json(
        tmp_path,
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": LARGE},
            {"role": "assistant", "content": "ok"},
        ],
    )
    tool, answer = done.messages()
    assert tool["content"] == {"tool_name": "fetch", "arguments": {"url": "x"}, "result": LARGE}
    assert answer["message_id"] == "msg-2"


def test_large_arguments_and_large_results_are_both_kept(tmp_path: Path) -> None:
    numbers = [{"n": i, "text": "x" * 50} for i in range(10_000)]
    arguments = orjson.dumps({"rows": numbers, "small": 1}).decode()
    call = {"id": "c1", "function": {"name": "insert", "arguments": arguments}, "extra": ["y" * 60] * 5_000}
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "z" * 150_000}] * 3, "k": 1}
    done = import_json(tmp_path, [{"role": "assistant", "content": None, "tool_calls": [call]}, result])
    tool = done.messages()[0]
    given = {"tool_name": "insert", "arguments": {"rows": numbers, "small": 1}, "result": result["content"]}
    assert tool["content"] == given
    assert tool["source"]["extra"] == ["y" * 60] * 5_000
    assert tool["result_source"] == {"k": 1}
    assert tool["status"] == "complete"
    (added, *_) = done.events[done.root.trace_id]
    assert added["message"]["content"]["arguments"]["small"] == 1  # what is around it stays


def test_large_unknown_keys_and_other_events_are_kept_too(tmp_path: Path) -> None:
    step = {"kind": "note", "metadata": {"agent": "A", "other": {"prompt": ["p" * 1000] * 400}}, "text": "small"}
    tape = {"metadata": {"big": {"m": ["q" * 100] * 2_000}}, "context": {"c": LARGE}, "steps": [step]}
    done = import_json(tmp_path, tape)
    note = next(m for m in done.messages() if m["role"] == "assistant")
    assert note["content"] == "small"
    assert note["step"]["metadata"]["other"]["prompt"] == ["p" * 1000] * 400
    events = list(map(done.whole, done.events[done.root.trace_id]))
    assert any(event.get("context") == {"c": LARGE} for event in events)
    large = next(event for event in events if event["event"] == "import.metadata")
    assert large["metadata"]["tape"] == tape["metadata"]
    assert done.root.metadata == {"format": "tapeagents", "times": "none"}


def test_what_is_too_deep_becomes_text(tmp_path: Path) -> None:
    deep: Any = "bottom"
    for _ in range(400):
        deep = {"d": [deep, {}], "e": []}
    chat = [{"role": "user", "content": "q", "deep": deep}, {"role": "user", "content": deep}]
    done = import_text(tmp_path, json.dumps(chat))
    assert done.faults == []
    for holder in (done.messages()[0]["source"]["deep"], done.messages()[1]["content"]):
        levels = 0
        while not isinstance(holder, str) or holder != "bottom":
            holder = (
                orjson.loads(holder)
                if isinstance(holder, str)
                else next(iter(holder.values()))
                if isinstance(holder, dict)
                else holder[0]
            )
            levels += 1
        assert levels > 800


@given(st.lists(st.tuples(st.sampled_from('a\n\x01é中🎉"'), st.integers(0, 60_000)), max_size=5))
def test_parts_of_a_text_fit_and_make_it_up(runs: list[tuple[str, int]]) -> None:
    text = "".join(letter * times for letter, times in runs)
    parts = list(text_parts(text))
    assert "".join(parts) == text
    assert parts
    assert all(len(orjson.dumps(part)) <= PART_BYTES for part in parts)


# Numbers stand for texts of that length, so that an example can be read.
JSON = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(0, 90_000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def blown_up(value: Any) -> Any:
    if isinstance(value, int):
        return "é" * value
    if isinstance(value, list):
        return [blown_up(item) for item in value]
    return {key: blown_up(item) for key, item in value.items()} if isinstance(value, dict) else value


@given(JSON, JSON, JSON)
@example(0, 0, [[90_000] * 3, 90_000, 90_000])  # two attachments of the metadata come before the call
@example([30_000] * 3, "a", [30_000] * 3)  # each fits, and both together do not
@example({"a": 30_000}, [90_000] + [32_000] * 9, [30_000] * 4)
def test_whatever_a_tool_is_given_and_gives_fits(small: Any, smaller: Any, smallest: Any) -> None:
    arguments, result, source = blown_up(small), blown_up(smaller), blown_up(smallest)
    out: list[Step] = []
    trace = TraceWriter(out, "t")
    trace.create("x", agent_type="a", metadata={"m": source})
    trace.call("tool", arguments, call_id="c", source={"s": source})
    trace.result("c", result, result_source={"s": source})
    trace.message("user", arguments, source={"s": source})
    trace.event("other", {"line": {"a": arguments, "r": result, "s": source}})
    trace.complete("completed")
    done = fold(out)
    (tool,) = [message for message in done.messages() if message["role"] == "tool"]
    assert tool["content"]["tool_name"] == "tool"
    # What is in no message, such as metadata that is too large, may be in an attachment; what is in one, beside the log
    assert not any(m["role"] == "attachment" and m.get("of_message") for m in done.messages())
    assert tool["content"]["result"] == result and tool["content"].get("arguments") == arguments


@pytest.mark.parametrize("size", [220 * 1024, 224 * 1024, 230 * 1024, 256 * 1024])
def test_events_near_the_limit_fit(tmp_path: Path, size: int) -> None:
    done = import_json(tmp_path, [{"role": "user", "content": [{"type": "image", "data": "A" * size}]}])
    message = done.messages()[0]
    assert message["content"][0]["data"] == "A" * size
