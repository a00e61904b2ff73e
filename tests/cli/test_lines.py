"""Events as lines of text, in a pipe and on a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import orjson
import pytest
from rich.cells import cell_len

from tests.cli.events import stored
from tracewatch.cli.lines import Narrator
from tracewatch.cli.screen import Screen
from tracewatch.cli.writer import EventWriter, Filter

RUN: tuple[dict[str, Any], ...] = (
    {"event": "goal_added", "goal": {"id": "g", "description": "Find the cause", "reason": "it is red"}},
    {"event": "goal_updated", "goal_id": "g", "patch": {"status": "in_progress"}},
    {"event": "message_added", "message": {"role": "user", "content": "Fix\nthe login"}},
    {
        "event": "message_added",
        "message": {
            "message_id": "t",
            "role": "tool",
            "status": "running",
            "content": {"tool_name": "grep", "arguments": {"pattern": "log in", "n": 2}},
        },
    },
    {
        "event": "message_updated",
        "message_id": "t",
        "patch": {"status": "complete", "duration_ms": 1234, "content": {"tool_name": "grep", "result": "3 matches"}},
    },
    {
        "event": "message_added",
        "message": {"message_id": "a", "role": "assistant", "content": "", "status": "streaming"},
    },
    {"event": "message_updated", "message_id": "a", "append": "It is "},
    {"event": "message_updated", "message_id": "a", "append": "the cookie."},
    {"event": "message_updated", "message_id": "a", "patch": {"status": "complete", "tokens": 7, "cost": 0.01}},
    {
        "event": "message_added",
        "message": {"role": "tool", "content": {"tool_name": "rm", "error": "Permission denied"}, "status": "complete"},
    },
    {"event": "sub_trace_started", "sub_trace_id": "s", "parent_goal_id": "g", "agent_type": "tester", "task": "Test"},
    {"event": "goal_updated", "goal_id": "g", "patch": {"status": "completed", "summary": "the cookie"}},
    {"event": "thought", "text": "hm"},
    {"event": "trace_completed", "status": "failed", "error": "boom"},
)


def test_errors_are_for_reading() -> None:
    failed = {"type": "TypeError", "message": "* wants int", "traceback": "Traceback …"}
    message = {"role": "tool", "content": {"tool_name": "mul", "error": failed}, "status": "complete"}
    totals = {"total_messages": 0, "total_tokens": 0, "total_cost": 0}
    said = told(
        {"event": "message_added", "message": message},
        {"event": "sub_trace_started", "sub_trace_id": "s", "parent_goal_id": None, "agent_type": "a", "task": "x"},
        {
            "event": "sub_trace_completed", "sub_trace_id": "s", "status": "failed", "summary": None,
            "stats": totals, "error": failed,
        },
        {"event": "tool.error", "error": failed},
        {"event": "trace_completed", "status": "failed", "error": failed, "summary": "in vain"},
    )  # fmt: skip
    assert said.count("TypeError: * wants int") == 4 and "Traceback" not in said and "{" not in said
    assert "failed: TypeError: * wants int: in vain" in said


def test_a_message_that_failed_says_so() -> None:
    error = {"type": "TimeoutError", "message": "slow"}
    message = {"message_id": "a", "role": "assistant", "content": "", "status": "streaming"}
    ended = {"event": "message_updated", "message_id": "a", "patch": {"status": "complete", "error": error}}
    whole = {"event": "message_added", "message": {"role": "assistant", "content": "It", "error": error}}
    began = {"event": "message_added", "message": message}
    said = told(began, {"event": "message_updated", "message_id": "a", "append": "It is"}, ended, whole).splitlines()
    assert [line.partition(" ")[2] for line in said[-2:]] == [
        "✗ assistant …  ✗ TimeoutError: slow",  # what streamed before has its own lines
        "✗ assistant It ✗ TimeoutError: slow",
    ]


def test_steps_are_told_with_what_goes_in_and_comes_out() -> None:
    said = told(
        {"event": "step_added", "step": {"id": "a", "name": "plan", "kind": "node", "input": "a\nquestion"}},
        {"event": "step_added", "step": {"name": "guard", "error": {"type": "Denied", "message": "no"}}},
        {"event": "step_updated", "step_id": "a", "patch": {"attempt": 2}},
        {"event": "step_updated", "step_id": "a", "patch": {"status": "completed", "output": "an answer"}},
    ).splitlines()
    assert [line[25:] for line in said] == [
        "◐ step plan (node): a ⏎ question",
        "✗ step guard: Denied: no",
        "✓ step plan: an answer",
    ]


def told(*given: dict[str, Any], form: str = "text", width: int | None = None, **filters: Any) -> str:
    """What `tail` prints for these events."""
    out = io.BytesIO()
    screen = Screen(
        lambda words: out.write(words.encode()),
        color=False,
        width=None if width is None else lambda: width,
        sought=filters.get("grep"),
    )
    sink = EventWriter(form, Filter(**filters), out.write, screen, "t1")
    for event, body in stored("t1", *given):
        sink.take(event, body)
    sink.pause()
    sink.finish()
    shown = out.getvalue().decode()
    return shown if width is None or width < 40 else shown.removeprefix("── 2026-11-20 UTC ──\n")


def test_a_run_into_a_pipe_is_one_line_an_event() -> None:
    lines = told(*RUN).splitlines()
    assert len(lines) == len(RUN)
    assert [line[25:] for line in lines] == [
        "○ goal added: Find the cause — it is red",
        "◐ goal started: Find the cause",
        "❯ user [Find the cause] Fix ⏎ the login",
        '… tool [Find the cause] grep pattern="log in" n=2',
        '✓ tool [Find the cause] grep pattern="log in" n=2 → 3 matches (1.2 s)',
        "◆ assistant [Find the cause]",
        "◆ assistant [Find the cause] … It is ",
        "◆ assistant [Find the cause] … the cookie.",
        "◆ assistant [Find the cause] … (7 tokens, $0.0100)",
        "✗ tool [Find the cause] rm ✗ Permission denied",
        "↳ agent [Find the cause] tester started: Test (s)",
        "● goal completed: Find the cause — the cookie",
        "• thought hm",
        "✗ trace failed: boom (4 messages, 7 tokens, $0.0100)",
    ]
    assert lines[0].startswith("2026-11-20T08:00:00.000Z ")


def test_on_a_terminal_streamed_text_goes_on_in_its_line() -> None:
    shown = told(*RUN, width=100)
    assert re.search(r"◆ assistant \[Find the cause\] It is the cookie. \(7 tokens, \$0.0100\)\n", shown)
    assert "…  It is" not in shown


def test_another_event_breaks_the_line_and_the_text_goes_on_after_it() -> None:
    shown = told(
        {
            "event": "message_added",
            "message": {"message_id": "a", "role": "assistant", "content": "One", "status": "streaming"},
        },
        {"event": "thought", "text": "hm"},
        {"event": "message_updated", "message_id": "a", "append": " two"},
        width=100,
    )
    assert [line[13:] for line in shown.splitlines()] == ["◆ assistant One", "• thought   hm", "◆ assistant …  two"]


@pytest.mark.parametrize("width", [20, 40, 71, 80, 200])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    long = {"event": "message_added", "message": {"role": "assistant", "content": "word " * 200 + "世" * 300}}
    assert max(cell_len(row) for row in told(*RUN[:2], long, width=width).splitlines()) <= width


def test_a_tools_long_result_is_cut_on_a_terminal_and_whole_in_a_pipe() -> None:
    result = "\n".join(f"line {n}" for n in range(100))
    call = {"event": "message_added", "message": {"role": "tool", "content": {"tool_name": "cat", "result": result}}}
    assert len(told(call, width=80).splitlines()) == 4
    assert "… 97 more rows" in told(call, width=80)
    assert told(call).count("line ") == 100


def test_control_characters_are_escaped_wherever_an_agent_can_put_them() -> None:
    evil = "\x1b[2J\u202e\u200b"
    shown = told(
        {"event": "goal_added", "goal": {"id": "g", "description": evil, "status": "in_progress"}},
        {"event": "message_added", "message": {"role": evil, "content": evil}},
        {
            "event": "message_added",
            "message": {"role": "tool", "content": {"tool_name": evil, "arguments": {evil: evil}}},
        },
        {"event": "sub_trace_started", "sub_trace_id": evil, "parent_goal_id": None, "agent_type": evil, "task": evil},
        {"event": "input_requested", "question": evil, "options": [evil]},
        {"event": "trace_completed", "status": "failed", "summary": evil, "error": {evil: evil}},
    )
    wide = told({"event": "message_added", "message": {"role": "user", "content": evil}}, width=80)
    for char in evil[0], "\u202e", "\u200b":
        assert char not in shown + wide
    assert "\\x1b[2J\\u202e\\u200b" in wide


def test_ndjson_is_the_stored_bytes_and_json_a_document_an_event() -> None:
    bodies = [body for _, body in stored("t1", *RUN)]
    assert told(*RUN, form="ndjson").encode() == b"".join(body + b"\n" for body in bodies)
    documents = told(*RUN, form="json").split("\n}\n")
    assert [orjson.loads(text + "\n}") for text in documents[:-1]] == [orjson.loads(body) for body in bodies]


def names(**filters: Any) -> list[str]:
    return [orjson.loads(line)["event"] for line in told(*RUN, form="ndjson", **filters).splitlines()]


def test_filters() -> None:
    assert names(types=frozenset({"thought", "goal_added"})) == ["goal_added", "thought"]
    assert names(errors=True) == ["message_added", "trace_completed"]
    assert names(grep=re.compile("3 match")) == ["message_updated"]
    assert names(from_s=1795161612.0) == ["thought", "trace_completed"]


def test_grep_finds_what_streamed_in_by_pieces() -> None:
    assert (
        told(*RUN, grep=re.compile("is the coo"))
        .splitlines()[0]
        .endswith("[Find the cause] It is the cookie. (7 tokens, $0.0100)")
    )
    for unfinished in ([*RUN[:8], RUN[-1]], RUN[:8]):  # also where the run goes on
        assert len(told(*unfinished, grep=re.compile("is the coo")).splitlines()) == 1


def test_hits_are_the_same_in_every_form() -> None:
    """Of a text that streamed in by pieces all its events are written, once it is whole, or when there are no more."""
    sought = re.compile("is the coo")
    for run, ids in ((RUN, [6, 7, 8, 9]), (RUN[:8], [6, 7, 8])):
        assert len(told(*run, grep=sought).splitlines()) == 1
        lines = told(*run, form="ndjson", grep=sought).splitlines()
        assert [orjson.loads(line)["event_id"] for line in lines] == ids
        assert told(*run, form="json", grep=sought).count('"event_id"') == len(ids)
    for form in ("text", "json", "ndjson"):
        assert told(*RUN, form=form, grep=re.compile("event_id|message_added")) == ""  # what is in the JSON only


def said(content: Any) -> dict[str, Any]:
    return {"event": "message_added", "message": {"role": "tool", "content": {"tool_name": "sh", "result": content}}}


def test_what_is_searched_is_what_is_shown() -> None:
    for content, seen, unseen in (
        ("10%\r50%\n100%\ttab", r"50%\n100%    tab", r"\r"),
        ("\x1b[31mred", r"\\x1b\[31mred", "\x1b"),
        ("می\u200cخواهم", "می\u200cخواهم", "u200c"),
        ('say "hi"', 'say "hi"', r'\\"'),
    ):
        for form in ("text", "ndjson"):
            assert told(said(content), form=form, grep=re.compile(seen)), (content, seen)
            assert not told(said(content), form=form, grep=re.compile(unseen)), (content, unseen)
    assert told(*RUN, grep=re.compile(r"^assistant \[Find the cause\] It is the cookie\. \(7 tokens, \$0\.0100\)$"))


def test_on_a_terminal_the_row_that_was_sought_is_shown() -> None:
    long = said("\n".join(f"row {n}" for n in range(100)))
    for sought, rows in (
        ("row 77", ["row 0", "row 1", "… 75 more rows", "row 77", "… 22 more rows"]),
        ("row 2$", ["row 0", "row 1", "row 2", "… 97 more rows"]),
        ("row 3$", ["row 0", "row 1", "… 1 more row", "row 3", "… 96 more rows"]),
        ("row 99", ["row 0", "row 1", "… 97 more rows", "row 99"]),
    ):
        shown = told(long, width=80, grep=re.compile(sought, re.MULTILINE)).splitlines()
        assert [row.split("→ ")[-1].strip() for row in shown] == rows


def test_an_update_of_a_message_from_before_is_told() -> None:
    (added, _), (updated, _) = stored(
        "t1",
        {"event": "message_added", "message": {"message_id": "x", "role": "tool", "content": {"tool_name": "grep"}}},
        {"event": "message_updated", "message_id": "x", "patch": {"content": {"tool_name": "grep", "result": 3}}},
    )
    narrator = Narrator("t1")
    line = narrator.tell(updated)
    assert line is not None and line.text == "grep → 3"
    narrator = Narrator("t1")
    narrator.know([{"id": "g", "description": "Goal"}], [added["message"]])
    line = narrator.tell(updated)
    assert line is not None and line.role == "tool"


def test_sub_traces_are_indented_and_named() -> None:
    out: list[str] = []
    sink = EventWriter(
        "text", Filter(), lambda body: None, Screen(out.append, color=False, width=lambda: 100, by_agent=True), "t1"
    )
    for event, body in stored("t1", RUN[0], RUN[1], RUN[10]):
        sink.take(event, body)
    for event, body in stored("s", {"event": "message_added", "message": {"role": "user", "content": "Go"}}):
        sink.take(event, body)
    assert "".join(out).splitlines()[-1][13:] == "  tester ❯ user      Go"


def streaming(trace_id: str, *texts: str, end: bool = True) -> list[tuple[dict[str, Any], bytes]]:
    """One message that streams in."""
    message = {"message_id": "m", "role": "assistant", "content": "", "status": "streaming"}
    return stored(
        trace_id,
        {"event": "message_added", "message": message},
        *({"event": "message_updated", "message_id": "m", "append": text} for text in texts),
        *([{"event": "message_updated", "message_id": "m", "patch": {"status": "complete"}}] if end else []),
        {"event": "thought", "text": "after"},
    )


@pytest.mark.parametrize("ends", [True, False])
def test_two_messages_that_stream_at_once_are_not_mixed(ends: bool) -> None:
    out: list[str] = []
    screen = Screen(out.append, color=False, width=lambda: 100, by_agent=True)
    sink = EventWriter("text", Filter(), lambda body: None, screen, "t1")
    for one, two in zip(
        streaming("t1", "One ", "two ", "three"), streaming("t2", "A ", "b ", "c", end=ends), strict=False
    ):
        sink.take(*one)
        sink.take(*two)
    if not ends:
        sink.take(*streaming("t1", "x", "x", "x")[-1])
    sink.finish()
    rows = [row[13:] for row in "".join(out).splitlines()]
    assert "◆ assistant One two three" in rows
    assert "◆ assistant A b c" in rows
    assert rows.index("◆ assistant A b c") < max(i for i, row in enumerate(rows) if row == "• thought   after")


def test_a_line_says_what_a_call_used_by_its_parts_and_no_cost_that_nobody_knows() -> None:
    usage = {"input_tokens": 1500, "output_tokens": 200, "cache_read_tokens": 1200}
    said = {"role": "assistant", "content": "Hi.", "message_id": "u", "status": "complete", "tokens": 1700}
    call = {"event": "message_added", "message": said | {"usage": usage}}
    ended = {"event": "trace_completed", "status": "completed", "total_messages": 1, "total_tokens": 1700}
    shown = told(call, ended | {"total_cost": 0.0, "usage": usage})
    assert "Hi. (1.5k → 200 · 1.2k cached)" in shown
    assert "(1 message, 1.5k → 200 · 1.2k cached)" in shown
    assert "$" not in shown
