"""Tokens in the log: made once, kept as a hash, revoked for every process at once, valid for their traces only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.log.helpers import Clock
from tracewatch.errors import InvalidField, NotFound
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log.tokens import digest, token_id_of
from tracewatch.model.events import validate_trace

pytestmark = pytest.mark.anyio


async def test_a_token_is_made_once_and_only_its_hash_is_kept(log: EventLog, db: Path) -> None:
    assert not await log.tokens.any_made()
    token = await log.tokens.create(["write", "read"], label="ci", expires_in_s=60)
    token_id = token_id_of(token)
    assert token_id is not None and len(token.rsplit("_", 1)[1]) == 40
    found = await log.tokens.find(token_id)
    assert found is not None and found.fits(token) and not found.fits(token[:-1] + "0" + token[-1])
    assert (set(found.scopes), found.label, found.trace_id) == ({"read", "write"}, "ci", None)
    assert await log.tokens.made() == [found] and await log.tokens.any_made()
    secret = token.rsplit("_", 1)[1]
    for path in db.parent.iterdir():
        assert secret.encode() not in path.read_bytes()
    assert secret not in repr(found) and digest(token).hex() not in repr(found)
    assert await log.tokens.create(["read"]) != await log.tokens.create(["read"])


async def test_revoked_and_expired(log: EventLog, other: EventLog, clock: Clock) -> None:
    one, two = [await log.tokens.create(["read"], expires_in_s=s) for s in (60, None)]
    ids = [token_id_of(token) or "" for token in (one, two)]
    assert await other.tokens.active([*ids, "nobody"]) == set(ids)
    assert await other.tokens.revoke(ids[1])
    assert not await log.tokens.revoke(ids[1])
    assert await log.tokens.active(ids) == {ids[0]}
    found = await log.tokens.find(ids[1])
    assert found is not None and found.status(clock()) == "revoked"
    clock.now += 60
    assert await log.tokens.active(ids) == set()
    assert await log.tokens.any_made()  # for ever
    with pytest.raises(NotFound):
        await log.tokens.revoke("000000000000")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["read", "all"]},
        {"scopes": ["read"], "trace_id": "a b"},
        {"scopes": ["read"], "trace_id": ""},
        {"scopes": ["read"], "expires_in_s": 0},
        {"scopes": ["read"], "expires_in_s": 1e12},
        {"scopes": ["read"], "label": "a\nb"},
    ],
)
async def test_what_can_not_be_a_token(log: EventLog, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidField):
        await log.tokens.create(**wrong)  # type: ignore[arg-type]
    assert not await log.tokens.any_made()


def test_what_has_not_the_form_of_one() -> None:
    good = "tw_0123456789ab_" + "0" * 40
    assert token_id_of(good) == "0123456789ab"
    for bad in ("", "tw_", good[:-1], good + "0", good.upper(), " " + good, good + "\n", "tw_' OR 1=1--_" + "0" * 40):
        assert token_id_of(bad) is None


async def test_what_a_trace_covers(log: EventLog) -> None:
    for trace_id, parent in (("a", None), ("a1", "a"), ("a11", "a1"), ("b", None), ("b1", "b"), ("ab", None)):
        await log.create_trace(validate_trace({"trace_id": trace_id, "task": "x", "parent_trace_id": parent}))
    every = ("a", "a1", "a11", "b", "b1", "ab", "nowhere")
    for root, below in (("a", {"a", "a1", "a11"}), ("a1", {"a1", "a11"}), ("b1", {"b1"}), ("nowhere", {"nowhere"})):
        assert {one for one in every if await log.tokens.covers(root, one)} == below
        there = below - {"nowhere"}
        listed, _ = await log.traces(TraceQuery(below=root))
        assert {trace["trace_id"] for trace in listed} == there
        assert {trace["trace_id"] for trace in await log.summaries(every, root)} == there
    assert len((await log.traces(TraceQuery()))[0]) == 6


async def test_the_inbox_of_one_trace(log: EventLog) -> None:
    for trace_id, parent in (("a", None), ("a1", "a"), ("b", None)):
        await log.create_trace(validate_trace({"trace_id": trace_id, "task": "x", "parent_trace_id": parent}))
        await log.append(trace_id, [{"event": "input_requested", "question": "?"}])
    assert [one["trace_id"] for one in (await log.inputs(10, "a"))[0]] == ["a", "a1"]
    assert [one["trace_id"] for one in (await log.inputs(10, "b"))[0]] == ["b"]
    assert len((await log.inputs(10))[0]) == 3
