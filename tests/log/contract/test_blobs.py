"""Big and binary content: stored once, counted for each trace, named by events, and gone with its last trace."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.log.helpers import Clock, Json, all_messages, create, fetch, notes, opened, say, sweep, trim
from tracewatch.errors import (
    BlobMismatch,
    InvalidField,
    NoSuchBlob,
    TooLarge,
    TraceBlobsFull,
    UnknownBlob,
    UnknownTrace,
)
from tracewatch.log import EventLog
from tracewatch.log.storage import PIECE_BYTES
from tracewatch.model.blobs import MAX_BLOB_BYTES, is_reference, references

pytestmark = pytest.mark.anyio
DAY = 86_400


def content(size: int, seed: int = 1) -> bytes:
    """Some bytes that compress badly."""
    block = b"".join(hashlib.sha256(b"%d.%d" % (seed, n)).digest() for n in range(64))
    return (block * (size // len(block) + 1))[:size]


def name_of(body: bytes) -> str:
    """Its SHA-256."""
    return hashlib.sha256(body).hexdigest()


async def cut(body: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    """A body as it comes over a network."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def put(log: EventLog, body: bytes, trace_id: str = "t", **more: Any) -> bool:
    """Store content for a trace. Whether it is new to it."""
    given = {"media_type": "text/plain", "sha256": name_of(body), **more}
    return (await log.blobs.put(trace_id, given.pop("sha256"), cut(body), **given))[1]


def reference(body: bytes, **more: Any) -> Json:
    """What an event says instead of the body."""
    return {"blob": name_of(body), "bytes": len(body), "media_type": "text/plain", "preview": "some", **more}


async def sweep_all(log: EventLog) -> None:
    while await sweep(log):
        pass


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7])
async def test_what_is_put_comes_back_whole_and_in_parts(log: EventLog, size: int) -> None:
    await create(log)
    body = content(size)
    assert await put(log, body) and not await put(log, body)
    assert await log.blobs.whole("t", name_of(body)) == body
    blob = await log.blobs.find("t", name_of(body))
    assert (blob.bytes, blob.media_type) == (size, "text/plain")
    for start, end in ((0, 1), (size // 2, None), (PIECE_BYTES - 1, PIECE_BYTES + 1), (size - 1, size), (size, None)):
        parts = [part async for part in log.blobs.read(blob, max(0, start), end)]
        assert b"".join(parts) == body[max(0, start) : end]


async def test_an_event_names_only_what_its_trace_has(log: EventLog, other: EventLog) -> None:
    await create(log)
    await create(log, "u")
    body = content(100_000)
    with pytest.raises(UnknownBlob) as caught:
        await log.append("t", [say("before"), say({"tool_name": "x", "result": [reference(body)]})])
    assert caught.value.facts["blob"] == name_of(body) and caught.value.facts["index"] == 1
    await put(log, body)
    for mistaken in (reference(body, bytes=99), reference(b"another")):
        with pytest.raises(UnknownBlob):
            await log.append("t", [say(mistaken)])
    with pytest.raises(UnknownBlob):
        await other.append("u", [say(reference(body))])
    await other.append("t", [say(reference(body)), {"event": "shot", "deep": [{"er": reference(body)}]}])
    # What only looks like one is JSON like any other
    await log.append("t", [say({"blob": "abc"}), say({"blob": name_of(b"x")}), say(f'{{"blob":"{name_of(b"x")}"}}')])
    assert [one["sequence"] for one in await all_messages(log)] == [1, 2, 3, 4]


async def test_what_is_refused(log: EventLog, clock: Clock, url: str) -> None:
    await create(log)
    body = content(2 * PIECE_BYTES)
    with pytest.raises(BlobMismatch):
        await put(log, body, sha256=name_of(b"else"))
    with pytest.raises(UnknownTrace):
        await put(log, body, "nobody")
    with pytest.raises(InvalidField):
        await put(log, body, sha256="ABC")
    with pytest.raises(InvalidField):
        await put(log, body, media_type="no type")
    with pytest.raises(TooLarge):
        await put(log, b"small", size=MAX_BLOB_BYTES + 1)
    with pytest.raises(TooLarge):
        await put(log, bytes(MAX_BLOB_BYTES + 1))
    with pytest.raises(NoSuchBlob):
        await log.blobs.find("t", name_of(body))
    async with opened(url, clock=clock, max_trace_blob_bytes=3 * PIECE_BYTES) as limited:
        await put(limited, body)
        with pytest.raises(TraceBlobsFull) as caught:
            await put(limited, content(2 * PIECE_BYTES, 2))
        assert caught.value.facts == {"limit": 3 * PIECE_BYTES, "used": 2 * PIECE_BYTES}
        assert not await put(limited, body)
        assert await put(limited, content(PIECE_BYTES, 3))


async def test_it_is_stored_once_and_goes_with_its_last_trace(log: EventLog, url: str) -> None:
    body = content(6 * PIECE_BYTES)
    for trace_id in ("a", "b"):
        await create(log, trace_id)
        assert await put(log, body, trace_id)
        await log.append(trace_id, [say(reference(body))])
    if url.startswith("sqlite"):
        assert await fetch(log, "SELECT SUM(length(body)) FROM blob_pieces") == [(len(body),)]
    await log.delete_trace("a")
    with pytest.raises(UnknownTrace):
        await log.blobs.find("a", name_of(body))
    await sweep_all(log)
    assert await log.blobs.whole("b", name_of(body)) == body
    await log.delete_trace("b")
    await sweep_all(log)
    if url.startswith("sqlite"):
        for table in ("blobs", "blob_pieces", "trace_blobs"):
            assert await fetch(log, f"SELECT COUNT(*) FROM {table}") == [(0,)]


async def test_what_was_trimmed_takes_its_content_along(log: EventLog) -> None:
    """But not what another event names, what a message that is still open says, or what is the trace's state."""
    await create(log)
    gone, again, still_open, state = (content(1000, seed) for seed in range(4))
    for body in (gone, again, still_open, state):
        await put(log, body)
    running = {"tool_name": "x", "arguments": reference(still_open)}
    await log.append("t", [say(reference(gone)), say(reference(again)), say(running, message_id="r", status="running")])
    await log.append("t", [{"event": "trace_updated", "metadata": {"all": reference(state)}}, *notes(500)])
    await log.append("t", [say(reference(again)), *notes(500)])
    assert await trim(log, "t", 500)
    await sweep_all(log)
    with pytest.raises(NoSuchBlob):
        await log.blobs.find("t", name_of(gone))
    for body in (again, still_open, state):
        assert await log.blobs.whole("t", name_of(body)) == body
    patch = {"status": "complete", "content": "done"}
    await log.append("t", [{"event": "message_updated", "message_id": "r", "patch": patch}, *notes(500)])
    assert await trim(log, "t", 1000)
    await sweep_all(log)
    with pytest.raises(NoSuchBlob):
        await log.blobs.find("t", name_of(still_open))
    assert await log.blobs.whole("t", name_of(state)) == state


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_what_nobody_names_is_swept_after_a_day(log: EventLog, clock: Clock) -> None:
    await create(log)
    named, unnamed, half = content(1000, 1), content(1000, 2), content(9 * PIECE_BYTES, 3)
    await put(log, named)
    await put(log, unnamed)
    await log.append("t", [say(reference(named))])
    for number in range(7):  # of one that dies in the middle
        key = await log.storage.put_piece(None if number == 0 else 3, name_of(half), number, bytes(PIECE_BYTES))
        assert key == 3
    await sweep_all(log)
    assert await log.blobs.whole("t", name_of(unnamed)) == unnamed
    clock.now += DAY + 1
    await sweep_all(log)
    with pytest.raises(NoSuchBlob):
        await log.blobs.find("t", name_of(unnamed))
    assert await log.blobs.whole("t", name_of(named)) == named
    assert await fetch(log, "SELECT COUNT(*) FROM blob_pieces") == [(1,)]
    with pytest.raises(UnknownBlob):
        await log.append("t", [say(reference(unnamed))])


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_one_that_does_not_come_to_its_end_leaves_nothing(log: EventLog) -> None:
    await create(log)

    async def breaking() -> AsyncIterator[bytes]:
        yield bytes(3 * PIECE_BYTES)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await log.blobs.put("t", name_of(b""), breaking(), media_type="text/plain")
    with pytest.raises(BlobMismatch):
        await put(log, bytes(2 * PIECE_BYTES), sha256=name_of(b"else"))
    await asyncio.gather(*log.blobs._letting_go)
    await sweep_all(log)
    assert await fetch(log, "SELECT COUNT(*) FROM blobs") == [(0,)]


async def test_two_that_send_the_same_at_once(log: EventLog, other: EventLog) -> None:
    await create(log)
    await create(log, "u")
    body = content(3 * PIECE_BYTES)
    await asyncio.gather(*(put(one, body, trace_id) for one in (log, other) for trace_id in ("t", "u")))
    for trace_id in ("t", "u"):
        assert await other.blobs.whole(trace_id, name_of(body)) == body


def test_what_is_a_reference() -> None:
    good = reference(b"x")
    assert is_reference(good) and references([{"a": [good]}, good]) == {name_of(b"x"): 1}
    for bad in ({**good, "bytes": True}, {**good, "bytes": -1}, {**good, "blob": "A" * 64}, {**good, "media_type": 1}):
        assert not is_reference(bad) and references({"a": bad}) == {}
