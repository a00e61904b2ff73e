"""What a model call was asked, put together (vectors shared with the viewer), and requests that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.errors import Invalid
from tracewatch.model.events import validate_event, validate_stored
from tracewatch.model.mend import mended
from tracewatch.model.prompt import (
    MOST_ITEMS,
    Prompt,
    TooMuch,
    assemble,
    digest_of,
    digest_of_all,
    references,
)

CASES = orjson.loads(Path(__file__).with_name("prompts.json").read_bytes())["cases"]


def put_together(messages: dict[str, Any], of: str) -> Prompt | None:
    work = assemble(messages[of])
    try:
        wanted = next(work)
        while True:
            wanted = work.send({name: messages[name] for name in wanted if name in messages})
    except StopIteration as over:
        prompt: Prompt | None = over.value
        return prompt


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_vectors(case: dict[str, Any]) -> None:
    prompt = put_together(case["messages"], case["of"])
    assert (None if prompt is None else prompt.to_json()) == case["prompt"]


def call(sequence: int, request: dict[str, Any]) -> dict[str, Any]:
    return {"sequence": sequence, "role": "assistant", "content": "", "request": request}


def test_a_long_conversation_names_the_call_before() -> None:
    messages: dict[str, Any] = {}
    for number in range(3000):
        messages[f"u{number}"] = {"sequence": 2 * number + 1, "role": "user", "content": f"text {number}"}
        before = [{"input_of": f"a{number - 1}", "to": number}] if number else []
        messages[f"a{number}"] = call(2 * number + 2, {"input": [*before, {"message_id": f"u{number}"}]})
    prompt = put_together(messages, "a2999")
    assert prompt is not None and prompt.input is not None
    assert [item["content"] for item in prompt.input] == [f"text {number}" for number in range(3000)]
    assert prompt.lost == []


def test_the_digest_says_whether_all_came_back() -> None:
    given = [{"role": "user", "content": "how?"}, {"role": "user", "content": "quickly"}]
    tools, params = [{"name": "ls"}], {"top_p": 1.0}
    digest = digest_of_all(
        params, [digest_of(orjson.dumps(one)) for one in tools], [digest_of(orjson.dumps(one)) for one in given]
    )
    request = {"params": params, "tools": tools, "input": [{"message_id": "u"}, given[1]], "digest": digest}
    messages = {"u": {"sequence": 1, **given[0]}, "a": call(2, request)}
    prompt = put_together(messages, "a")
    assert prompt is not None and prompt.input == given and prompt.exact is True
    messages["u"]["content"] = "how then?"  # somebody has changed it since
    prompt = put_together(messages, "a")
    assert prompt is not None and prompt.exact is False and prompt.lost == []


def test_what_grows_without_bound_is_refused() -> None:
    long = {"sequence": 1, "role": "user", "content": "x" * 1_000_000}
    messages = {"u": long, "a": call(2, {"input": [{"message_id": "u"}] * 200})}
    with pytest.raises(TooMuch):
        put_together(messages, "a")
    messages = {"a0": call(1, {"input": ["x"]})}
    for number in range(1, 40):  # each doubles the one before
        half = {"input_of": f"a{number - 1}", "to": min(2 ** (number - 1), MOST_ITEMS // 2)}
        messages[f"a{number}"] = call(number + 1, {"input": [half, half]})
    with pytest.raises(TooMuch):
        put_together(messages, "a39")


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        ({"input": [{"message_id": 7}]}, "input.0"),
        ({"input": ["x", {"input_of": "a", "to": -1}]}, "input.1"),
        ({"input": [{"input_of": "a"}]}, "input.0"),
        ({"input": [{"input_of": "a", "from": 3, "to": 2}]}, "input.0"),
        ({"input": [{"list_of": "", "to": 2}]}, "input.0"),
        ({"tools": [{"tools_of": "a", "to": True}]}, "tools.0"),
        ({"input": [{"value": 1, "parts": []}]}, "input.0"),
        ({"input": [{"value": 1, "parts": {"x": {"message_id": "a"}}}]}, "input.0"),
        ({"input": [{"value": 1, "parts": {"": {"message_id": "a", "at": "x"}}}]}, "input.0"),
        ({"input": [{"value": 1, "parts": {"": {}}}]}, "input.0"),
        ({"input": [{"input_of": "a", "to": 60_000}, {"input_of": "a", "to": 60_000}]}, "input"),
        ({"input": {}}, "input"),
        ({"params": []}, "params"),
        ({"params_of": ""}, "params_of"),
    ],
)
def test_a_request_of_a_wrong_form_is_refused(request_: dict[str, Any], path: str) -> None:
    for part, event in (
        ("message", {"event": "message_added", "message": {"role": "assistant", "content": "", "request": request_}}),
        ("patch", {"event": "message_updated", "message_id": "a", "patch": {"request": request_}}),
    ):
        with pytest.raises(Invalid) as caught:
            validate_event(event)
        assert [one["path"] for one in caught.value.details] == [f"{part}.request.{path}"]
        fixed = mended(event, "invalid_event", caught.value.details)
        assert fixed is not None
        assert fixed[part].get("refused", fixed.get("refused"))["request"] == request_
        validate_event(fixed)
    head = {"event": "message_added", "event_id": 1, "trace_id": "t", "ts": "2026-11-20T08:00:00.000Z"}
    kept = {"message_id": "m1", "sequence": 1, "role": "assistant", "content": "", "goal_id": None, "description": ""}
    with pytest.raises(Invalid):
        validate_stored({**head, "message": {**kept, "status": "complete", "request": request_}, "affected_goals": []})


def test_other_things_of_a_request_stay_as_they_are() -> None:
    request = {"params": {"message_id": 7}, "tools": [{"value": 3}], "input": [{"input": 1}], "own": {"x": [1]}}
    event = {"event": "message_added", "message": {"role": "assistant", "content": "", "request": request}}
    assert validate_event(event)["message"]["request"] == request
    assert list(references(request)) == []


def test_a_request_that_names_what_is_not_there_is_mended() -> None:
    request = {
        "params_of": "gone",
        "tools": [{"tools_of": "gone", "to": 12}],
        "input": [{"message_id": "u"}, {"message_id": "gone"}, {"value": 1, "parts": {"": {"message_id": "gone"}}}],
    }
    event = {"event": "message_added", "message": {"role": "assistant", "content": "", "request": request}}
    places = ["params_of", "tools.0", "input.1", "input.2"]
    details = [{"path": f"message.request.{place}", "message": "…", "message_id": "gone"} for place in places]
    fixed = mended(event, "unknown_message", details)
    assert fixed is not None
    left = fixed["message"]["request"]
    assert left["input"][0] == {"message_id": "u"}
    assert left["tools"] == [{"refused": {"tools_of": "gone", "to": 12}, "count": 12}]
    assert [one["count"] for one in left["input"][1:]] == [1, 1]
    assert left["refused"] == {"params_of": "gone"} and "params_of" not in left
    assert {name for _, name in references(left)} == {"u"}
    validate_event(fixed)
    assert request["params_of"] == "gone", "the event itself stays as it was"
