"""A refusal costs what was refused, and no more: of events, of a trace's fields, and by servers that are not ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.answers import answer
from tests.client.proxy import proxy
from tests.client.test_record import events, say, steps
from tests.support import DEADLINE_S, serving, until
from tracewatch.client.api import Api
from tracewatch.client.trace import Trace

pytestmark = pytest.mark.anyio
New = Callable[..., Trace]
TEXT = "what the agent said " * 150  # more than a cut one has


def texts(log: list[dict[str, Any]]) -> list[str]:
    return [e["message"]["content"] for e in log if e["event"] == "message_added"]


async def test_a_trace_that_is_deleted_in_the_middle_of_a_goal_keeps_all_that_comes(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, trace_id="t", agent_type="coder", metadata={"a": 1}) as t:
            with t.goal("outer"), t.message("assistant") as streamed:
                streamed.stream("the beginning, ")
                assert await t.aflush(DEADLINE_S)
                await server.services.log.delete_trace("t")
                for n in range(24):
                    t.message("assistant", f"{n} {TEXT}")
                with t.goal("inner", id="inner"):
                    t.message("user", TEXT)
                streamed.stream(TEXT)
                await until(lambda: any(TEXT in text for text in streamed._text) or not streamed._text)
        assert await t.aflush(DEADLINE_S)
        log = await events(server.url, "t")
        assert [f"{n} {TEXT}" for n in range(24)] == texts(log)[:24]
        assert TEXT in texts(log)  # of the inner goal, and of the message that streamed
        assert "".join(texts(log)[25:] + [e.get("append", "") for e in log]).endswith(TEXT)
        goals = {e["goal"]["id"]: e["goal"] for e in log if e["event"] == "goal_added"}
        assert goals["inner"]["parent_id"] is None and "parent_id" in goals["inner"]["refused"]
        assert next(e["message"]["goal_id"] for e in log if e.get("message", {}).get("role") == "user") == "inner"
        assert not [e for e in log if e["event"] == "recorder_refused"]
        summary = (await asyncio.to_thread(Api(server.url).trace, "t"))["trace"]
        assert (summary["agent_type"], summary["metadata"], summary["status"]) == ("coder", {"a": 1}, "completed")


async def test_a_goal_with_a_bad_type_status_or_number_is_a_goal(tmp_path: Path, new_trace: New) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, trace_id="t") as t:
            with t.goal("first", type="epic") as goal:
                t.message("assistant", TEXT, tokens=-3, cost="dear", goal=goal)  # type: ignore[arg-type]
            plan = t.add_goal("second", status="done")
            plan.start()
            plan.complete("it is")
        assert await t.aflush(DEADLINE_S)
        log = await events(server.url, "t")
        assert not [e for e in log if e["event"].startswith("recorder_")]
        assert texts(log) == [TEXT]
        found = await asyncio.to_thread(Api(server.url).trace, "t")
        first, second = found["goal_tree"]["goals"]
        assert (first["status"], first["type"], first["refused"]) == ("completed", "normal", {"type": "epic"})
        assert first["self_stats"]["message_count"] == 1
        assert (second["status"], second["summary"], second["refused"]) == ("completed", "it is", {"status": "done"})


@pytest.mark.parametrize("name", ["My Event", "", "cancel_requested", "ÄÖÜ", "x" * 500, 7, None])
async def test_an_event_with_garbage_for_its_name_keeps_what_it_has(tmp_path: Path, new_trace: New, name: Any) -> None:
    async with serving(tmp_path / "t.db") as server:
        with new_trace(server.url, trace_id="t") as t:
            t.event(name, text=TEXT)
        assert await t.aflush(DEADLINE_S)
        (event,) = [e for e in await events(server.url, "t") if "text" in e]
        assert event["text"] == TEXT
        assert event["original_event"] == str(name)


FOREIGN = [
    answer("400 Bad Request", b"<html><h1>400 Bad Request</h1></html>", kind="text/html"),
    answer("422 Unprocessable", b'{"error":"invalid","message":"of another service"}'),
    answer("413 Too Large", b'{"error":"no"}'),
    answer("404 Not Found", b'{"error":"unknown_parent"}'),
]


@pytest.mark.parametrize("foreign", FOREIGN[:2])
async def test_a_foreign_refusal_loses_nothing(
    tmp_path: Path, new_trace: New, foreign: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server, proxy(server.url) as between:
        say(new_trace(server.url, trace_id="above"), 1, 1)
        left = [3]

        def first_head(head: bytes) -> bytes:
            if b"/api/record" in head:
                return answer("404 Not Found")  # so that the trace is created over HTTP
            if head.startswith(b"POST /api/traces") and left[0]:
                left[0] -= 1
                return foreign
            return head

        between.first_head = first_head
        options = {"agent_type": "coder", "metadata": {"a": TEXT}, "parent_trace_id": "above", "lease_s": 600}
        with new_trace(between.url, trace_id="t", **options) as t:
            say(t, 1, 3)
        assert await t.aflush(DEADLINE_S)
        assert left == [0]
        assert await steps(server.url, "t") == [1, 2, 3]
        found = (await asyncio.to_thread(Api(server.url).trace, "t"))["trace"]
        assert {key: found[key] for key in ("agent_type", "metadata", "parent_trace_id")} == {
            "agent_type": "coder",
            "metadata": {"a": TEXT},
            "parent_trace_id": "above",
        }


async def test_a_field_that_is_refused_is_told_of_and_the_others_stay(
    tmp_path: Path, new_trace: New, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "t.db") as server:
        t = new_trace(server.url, trace_id="t", agent_type="coder", metadata={"a": 1}, lease_s=600)
        t._outbox.spec |= {"lease_s": -1, "colour": "red"}
        with caplog.at_level(logging.WARNING, "tracewatch"), t:
            say(t, 1, 2)
        assert await t.aflush(DEADLINE_S)
        await until(lambda: not t.pending)
        log = await events(server.url, "t")
        (told,) = [e for e in log if e["event"] == "recorder_relaxed"]
        assert told["refused"] == {"lease_s": -1, "colour": "red"}
        found = (await asyncio.to_thread(Api(server.url).trace, "t"))["trace"]
        assert (found["agent_type"], found["metadata"]) == ("coder", {"a": 1})
        assert caplog.text.count("recorded with less than was given") == 1
