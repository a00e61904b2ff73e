"""``cancel``, ``inputs``, ``answer`` and ``tail --until-waiting`` on a real server."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.cli.conftest import Run, Spawned, done, record, thought, wait_until
from tracewatch.cli.questions import choices, chosen, value_of
from tracewatch.client.api import Api

Spawn = Callable[..., Spawned]


def question(request_id: str = "deploy", words: str = "Deploy?", **more: Any) -> dict[str, Any]:
    return {"event": "input_requested", "request_id": request_id, "question": words, **more}


def last(api: Api, trace_id: str) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(list(api.events(trace_id))[-1])
    return event


@pytest.fixture(autouse=True)
def no_other_questions(api: Api) -> None:
    """Those of other tests are closed."""
    for one in api.inputs()["inputs"]:
        api.delete(one["trace_id"])


# --- inputs ---


def test_inputs_lists_the_questions_of_all_traces_oldest_first(tw: Run, api: Api) -> None:
    record(api, "in-1", question(options=["yes", "no"], expires_in_s=3600))
    record(api, "in-2", question("r\x1b", "Which\nbranch?", schema={"type": "integer"}))
    said = tw("inputs")
    assert (said.code, said.err) == (0, "")
    first, asked, offered, second, words, schema = said.text.splitlines()
    assert first.startswith("? in-1  deploy  asked ") and "expires in " in first
    assert (asked, offered) == ("  Deploy?", "  yes / no")
    assert second.startswith("? in-2  r\\x1b  asked ") and "expires" not in second
    assert (words, schema) == ("  Which ⏎ branch?", '  JSON: {"type":"integer"}')
    listed = orjson.loads(tw("inputs", "-o", "json").out)
    assert [one["trace_id"] for one in listed] == ["in-1", "in-2"]
    assert [orjson.loads(line) for line in tw("inputs", "-o", "ndjson").out.splitlines()] == listed


def test_a_question_of_the_terminal_is_told_and_not_answered(tw: Run, api: Api) -> None:
    record(api, "there", question(options=["yes", "no"], answerable="terminal"))
    assert "to be answered in the agent's own terminal" in tw("inputs").text
    said = tw("answer", "there", "yes")
    assert (said.code, said.out) == (2, b"") and "only the agent's own terminal can answer it" in said.err
    api.append("there", [{"event": "input_provided", "request_id": "deploy", "value": "no", "by": "terminal"}])
    said = tw("answer", "there", "deploy", "yes")
    assert said.code == 2 and "somebody else has answered it already" in said.err
    record(api, "idle", {"event": "trace_status_changed", "status": "idle"})
    assert "idle" in tw("ls", "--status", "idle").text and "there" not in tw("ls", "--status", "idle").text


def test_no_question_is_no_error(tw: Run) -> None:
    ran = tw("inputs")
    assert (ran.code, ran.out) == (0, b"") and "no open question" in ran.err
    assert tw("inputs", "-o", "json").out.strip() == b"[]"


# --- answer ---


def test_the_only_open_question_is_answered_by_whoever_is_logged_in(tw: Run, api: Api) -> None:
    record(api, "one", question(options=["yes", "no"]))
    ran = tw("answer", "one", "YES")
    assert (ran.code, ran.text, ran.err) == (0, "one deploy answered\n", "")
    event = last(api, "one")
    assert (event["event"], event["value"], event["by"]) == ("input_provided", "yes", getpass.getuser())


def test_one_of_several_is_named_by_its_beginning(tw: Run, api: Api) -> None:
    record(api, "two", question("alpha", "A?"), question("beta", "B?"))
    ran = tw("answer", "two", "x")
    assert ran.code == 2 and "2 open questions" in ran.err and "  alpha  A?\n  beta  B?" in ran.err
    assert tw("answer", "two", "be", "for b", "--by", "ann").code == 0
    assert (last(api, "two")["request_id"], last(api, "two")["value"], last(api, "two")["by"]) == (
        *("beta", "for b"),
        "ann",
    )


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (["--json", '{"a": [1, null]}'], {"a": [1, None]}),
        (["--json", '"text"'], "text"),
        (["17"], "17"),
        ([""], ""),
    ],
)
def test_a_value_is_text_unless_json_is_said(tw: Run, api: Api, args: list[str], value: Any) -> None:
    api.create_trace({"trace_id": f"value-{len(str(args))}", "task": "x"})
    trace_id = record(api, f"value-{len(str(args))}", question(), task="x")
    assert tw("answer", trace_id, *args).code == 0
    assert last(api, trace_id)["value"] == value


@pytest.mark.parametrize(
    ("events", "args", "said"),
    [
        ([question(), done()], ["deploy", "yes"], "deploy: too late: its run has ended"),
        ([question()], ["deplox", "yes"], "deplox: no such question was asked"),
        ([thought("x")], ["yes"], "has no open question"),
        ([question(options=["a", "b"])], ["c"], "(it wants a / b)"),
        ([question(schema={"type": "integer"})], ["c"], 'it wants JSON: {"type":"integer"}'),
        ([question()], ["--json", "{"], "is not JSON"),
        ([question()], ["a", "b", "c"], "put quotes around"),
    ],
)
def test_why_an_answer_is_not_taken_is_said_in_one_line(
    tw: Run, api: Api, events: list[dict[str, Any]], args: list[str], said: str
) -> None:
    trace_id = record(api, f"refused-{said[:6].encode().hex()}", *events)
    ran = tw("answer", trace_id, *args)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, b"", 1)
    assert said in ran.err


def test_an_answer_that_came_second_and_one_that_came_too_late(tw: Run, api: Api) -> None:
    record(api, "second", question(), question("late", expires_in_s=0.01))
    assert tw("answer", "second", "deploy", "mine").code == 0
    ran = tw("answer", "second", "deploy", "theirs")
    assert (ran.code, ran.err) == (2, "tracewatch: deploy: somebody else has answered it already\n")
    wait_until(lambda: not api.trace("second")["pending_inputs"])
    ran = tw("answer", "second", "late", "yes")
    assert (ran.code, ran.err) == (2, "tracewatch: late: too late: it has expired\n")


def test_what_typed_text_means() -> None:
    mixed = {"options": ["Yes", "yes", 3, True, None, {"a": 1}]}
    assert [value_of(mixed, typed) for typed in ("Yes", "yes", "3", "true", '{"a":1}')] == [
        *("Yes", "yes", 3, True),
        {"a": 1},
    ]
    assert value_of({"options": ["Yes", "yes"]}, "YES") == "YES"
    assert value_of({"schema": {"type": "integer"}}, "3") == 3
    assert value_of({"schema": {"type": "string"}}, "3") == "3"
    assert value_of({"schema": {"type": "object"}}, "{oops") == "{oops"
    assert [chosen({"options": ["a", "b"]}, typed) for typed in ("1", "2", "3", "b", "0")] == ["a", "b", "3", "b", "0"]
    assert chosen({"options": ["2", "1"]}, "1") == "1"
    assert choices({"question": "?"}) == ""


# --- cancel ---


def test_cancel_asks_and_a_trace_that_nobody_records_is_stopped(tw: Run, api: Api) -> None:
    record(api, "asked", thought("x"))
    ran = tw("cancel", "asked", "--reason", "no need")
    assert (ran.code, ran.text, ran.err) == (0, "asked cancelling\n", "")
    event = last(api, "asked")
    assert (event["event"], event["reason"], event["by"]) == ("cancel_requested", "no need", getpass.getuser())
    record(api, "gone", {"event": "trace_status_changed", "status": "lost"})
    assert tw("cancel", "gone", "--wait").text == "gone stopped\n"
    ran = tw("cancel", "gone")
    assert ran.code == 2 and "has ended: it is stopped" in ran.err and len(ran.err.splitlines()) == 1
    assert tw("cancel", "no-such-trace").code == 2


@pytest.mark.parametrize(("status", "code"), [("stopped", 0), ("completed", 0), ("failed", 1)])
def test_cancel_can_wait_for_the_end(spawn: Spawn, api: Api, status: str, code: int) -> None:
    record(api, f"waits-{status}", thought("x"))
    waiting = spawn("cancel", f"waits-{status}", "--wait")
    assert waiting.line() == f"waits-{status} cancelling\n".encode()
    api.append(f"waits-{status}", [done(status)])
    ran = waiting.end()
    assert (ran.code, ran.text, ran.err) == (code, f"waits-{status} {status}\n", "")


def test_waiting_for_one_whose_recorder_dies_before_it_stops(spawn: Spawn, api: Api) -> None:
    record(api, "dies", thought("x"))
    waiting = spawn("cancel", "dies", "--wait")
    assert waiting.line() == b"dies cancelling\n"
    api.append("dies", [{"event": "trace_status_changed", "status": "lost"}])
    assert waiting.end().text == "dies stopped\n"


# --- tail --until-waiting ---


@pytest.mark.parametrize("form", ["text", "ndjson", "tree"])
def test_until_waiting_leaves_with_4_when_a_question_is_open(spawn: Spawn, tw: Run, api: Api, form: str) -> None:
    trace_id = record(api, f"until-{form}", thought("x"))
    tail = spawn("tail", trace_id, "--until-waiting", "-o", form)
    wait_until(lambda: api.trace(trace_id)["watchers"] == 1)
    api.append(trace_id, [question()])
    assert tail.end().code == 4
    ran = tw("tail", trace_id, "--until-waiting", "-o", form)  # at once, where it waits already
    assert ran.code == 4
    assert "Deploy?" in ran.text
    api.answer(trace_id, "deploy", "yes")
    api.append(trace_id, [done("failed")])
    assert tw("tail", trace_id, "--until-waiting", "-o", form).code == 0
    assert tw("tail", trace_id, "--until-waiting", "--exit-status", "-o", form).code == 1


def test_until_waiting_looks_at_sub_traces_that_are_followed(tw: Run, spawn: Spawn, api: Api) -> None:
    record(api, "above", thought("x"))
    record(api, "below", question(), parent_trace_id="above")
    assert tw("tail", "above", "--until-waiting", "--children").code == 4
