"""Requests of model calls: what they name must be there, and they are put together again."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.log.helpers import check_trace, create, opened, say
from tracewatch.errors import NoSuchMessage, UnknownMessage, UnknownTrace
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio


def asked(message_id: str, *items: Any, **more: Any) -> dict[str, Any]:
    event = say("answer", message_id=message_id)
    return {**event, "message": {**event["message"], "request": {"input": list(items), **more}}}


async def prompt_of(log: EventLog, message_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(await log.prompt("t", message_id))["prompt"]
    return answer


async def test_a_conversation(url: str) -> None:
    async with opened(url) as log:
        await create(log)
        await log.append("t", [say("one", message_id="u1"), asked("a1", {"message_id": "u1"})])
        await log.append("t", [say("two", message_id="u2")])
        await log.append("t", [asked("a2", {"input_of": "a1", "to": 1}, {"message_id": "a1"}, {"message_id": "u2"})])
        await check_trace(log)
    async with opened(url) as log:  # nothing of it is remembered
        await log.append("t", [asked("a3", {"input_of": "a2", "to": 3}, {"message_id": "u1"})])
        found = await prompt_of(log, "a3")
        assert [item["content"] for item in found["input"]] == ["one", "answer", "two", "one"]
        assert found["lost"] == []
        whole = orjson.loads(await log.prompt("t", "u1"))
        assert whole["prompt"] is None and whole["message"]["content"] == "one" and whole["event_id"] == 1
        with pytest.raises(NoSuchMessage):
            await log.prompt("t", "no")
        with pytest.raises(UnknownTrace):
            await log.prompt("no", "u1")


async def test_a_message_that_is_not_there(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say("one", message_id="u1")])
    with pytest.raises(UnknownMessage) as caught:
        await log.append("t", [say("x"), asked("a1", {"message_id": "u1"}, {"message_id": "no"}, {"message_id": "a1"})])
    details = [{key: one[key] for key in ("path", "message_id", "index")} for one in caught.value.details]
    assert details == [
        {"path": "message.request.input.1", "message_id": "no", "index": 1},
        {"path": "message.request.input.2", "message_id": "a1", "index": 1},  # not before itself
    ]
    await log.append("t", [asked("a1", {"message_id": "u1"})])
    patch = {"event": "message_updated", "message_id": "a1", "patch": {"request": {"params_of": "no"}}}
    with pytest.raises(UnknownMessage) as caught:
        await log.append("t", [patch])
    assert caught.value.details[0]["path"] == "patch.request.params_of"
    await log.append("t", [{**patch, "patch": {"request": {"params": {"n": 1}, "input": [{"message_id": "u1"}]}}}])
    assert (await prompt_of(log, "a1"))["params"] == {"n": 1}
    await check_trace(log)
