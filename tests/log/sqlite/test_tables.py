"""The contents of a file's tables, and the rows that leave it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import orjson
import pytest

from tests.log.helpers import (
    Clock,
    ask,
    bodies,
    check_trace,
    check_trimmed,
    create,
    end,
    fetch,
    fill,
    goal,
    names,
    notes,
    opened,
    prune,
    say,
    status,
    sweep,
    swept,
    trim,
)
from tracewatch.errors import (
    TracewatchError,
)
from tracewatch.log import EventLog

pytestmark = pytest.mark.anyio


def _rows(db: Path) -> dict[str, int]:
    connection = sqlite3.connect(db)
    try:
        names = ("events", "messages", "snapshots", "leftovers")
        return {name: connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}
    finally:
        connection.close()


def size(db: Path) -> int:
    return db.stat().st_size


async def test_questions_from_before_the_table(log: EventLog, tmp_path: Path) -> None:
    """As after the migration: the table is empty and the traces wait."""
    await create(log)
    await log.append("t", [ask("a"), ask("b"), ask("closed"), *notes(600)])
    await log.answer("t", "closed", 1)
    await create(log, "ended")
    await log.append("ended", [ask("c"), end()])
    before = (await log.inputs(10))[0]
    with sqlite3.connect(tmp_path / "log.db") as file:
        file.execute("DELETE FROM inputs")
        file.execute("INSERT INTO meta VALUES ('inputs_unfilled', '1')")
    file.close()
    url = f"sqlite:///{tmp_path / 'log.db'}"
    async with opened(url) as one, opened(url) as two:
        assert (await one.inputs(10))[0] == (await two.inputs(10))[0] == before
        await one.answer("t", "a", 1)
        assert [asked["request_id"] for asked in (await two.inputs(10))[0]] == ["b"]
    with sqlite3.connect(tmp_path / "log.db") as file:
        assert not file.execute("SELECT * FROM meta WHERE key = 'inputs_unfilled'").fetchall()
    file.close()


async def test_a_damaged_trace_holds_up_no_other(log: EventLog, clock: Clock, url: str) -> None:
    """Its lease and its question can't be marked: those of the others are."""
    for name in ("a", "damaged", "z"):
        await create(log, name, lease_s=10)
        await log.append(name, [{"event": "input_requested", "question": "?", "expires_in_s": 10}, *notes(3)])
    file = sqlite3.connect(url.split(":///")[1], isolation_level=None)
    file.execute("DELETE FROM events WHERE event_key = (2 << 32) + 2")
    file.close()
    async with opened(url, clock=clock) as fresh:  # nothing is remembered here
        clock.now += 11
        for expire in (fresh.expire_leases, fresh.expire_inputs):
            with pytest.raises(TracewatchError):
                await expire()
        assert await status(fresh, "a", "damaged", "z") == ["lost", "waiting", "lost"]
        for name in ("a", "z"):
            assert (await names(fresh, name))[-2:] == ["trace_status_changed", "input_expired"]
            await check_trace(fresh, name)


async def fill_family(log: EventLog) -> None:
    """A trace ``t`` with something of everything, and its sub-trace ``c``."""
    await create(log, metadata={"k": [1]})
    await log.append("t", [goal(id="g", status="in_progress"), say("x", tokens=3, cost=0.1)])
    await create(log, "c", "Sub", parent_trace_id="t")
    await log.append("c", [say("sub", tokens=5), end()])
    await log.append("t", [{"event": "message_updated", "message_id": "m2", "append": "y", "patch": {"tokens": 4}}])
    await log.append("t", [{"event": "input_requested", "question": "?"}, *notes(3), end("failed", error="no")])


async def test_nothing_of_it_stays_in_the_file(url: str, db: Path) -> None:
    import sqlite3

    async with opened(url) as log:
        await fill_family(log)
        await log.append("t", notes(600), producer="p", seq=1)
        await log.delete_trace("t")
        while await sweep(log):
            pass
    connection = sqlite3.connect(db)
    for table in ("traces", "events", "messages", "producers", "snapshots", "inputs", "leftovers", "traces_text"):
        sql = f"SELECT COUNT(*) FROM {table}" + (" WHERE traces_text MATCH 'Task'" if table == "traces_text" else "")
        assert connection.execute(sql).fetchone() == (0,), table
    assert connection.execute("SELECT COUNT(*) FROM deleted_traces").fetchone() == (2,)
    connection.execute("INSERT INTO traces_text (traces_text) VALUES ('integrity-check')")
    connection.close()


@pytest.mark.slow
async def test_the_file_shrinks(url: str, db: Path) -> None:
    async with opened(url) as log:
        await create(log)
        for _ in range(20):
            await log.append("t", notes(500, "x" * 500))
        await create(log, "gone")
        await log.append("gone", notes(900, "x" * 500))
        await log.delete_trace("gone")
    large = size(db)
    async with opened(url) as log:
        await prune(log, keep_events=5000, keep_free_share=0.9)
        assert await log.append("t", notes(1))
    assert size(db) == large  # it will be filled again
    async with opened(url) as log:
        await prune(log, keep_events=5000)
    half = size(db)
    assert large * 0.3 < half < large * 0.7
    async with opened(url) as log:
        await prune(log, keep_events=500)
        assert len(await bodies(log)) == 501
    assert size(db) < half / 3
    assert sqlite3.connect(db).execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_wal_that_a_long_read_let_grow(log: EventLog, db: Path) -> None:
    wal = db.with_name(f"{db.name}-wal")
    await create(log)
    reader = sqlite3.connect(db, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM traces").fetchall()
    for _ in range(20):
        await log.append("t", notes(500, "x" * 500))
    large = size(wal)
    assert large > 5 << 20
    await prune(log, wal_bytes=1 << 20)
    assert size(wal) == large  # and nobody has waited for long
    reader.close()
    await prune(log, wal_bytes=1 << 30)
    assert size(wal) == large
    await prune(log, wal_bytes=1 << 20)
    assert size(wal) == 0
    assert (await log.append("t", notes(1))).last_event_id == 10_001


async def test_nothing_of_what_was_trimmed_stays(log: EventLog, db: Path) -> None:
    await fill(log, count=2000)
    await trim(log, "t", 500)
    await trim(log, "t", 1500)
    assert _rows(db)["events"] == 2000  # gone for readers, not yet from the file
    assert await check_trimmed(log) == 1501
    await swept(log)
    assert _rows(db) == {"events": 500, "messages": 1, "snapshots": 2, "leftovers": 0}


@pytest.mark.anyio
async def test_a_state_is_kept_every_500_events(log: EventLog) -> None:
    await create(log)
    await log.append("t", [goal(id="g", status="in_progress")])
    for _ in range(5):
        await log.append("t", [say("x", tokens=1) for _ in range(330)])
    kept = await fetch(log, "SELECT event_id FROM snapshots ORDER BY event_id")
    assert [row[0] for row in kept] == [500, 1000, 1500]
    for at in (0, 1, 499, 500, 501, 999, 1000, 1234, 1500, 1651):
        state = (await log.snapshot("t", at)).state
        assert (state.last_event_id, state.total_messages) == (at, max(0, at - 1))
    await check_trace(log)


async def test_a_hash_is_not_to_be_had_by_asking(log: EventLog, db: Path) -> None:
    await log.tokens.create(["read"])
    (row,) = sqlite3.connect(db).execute("SELECT hash FROM tokens").fetchall()
    assert isinstance(row[0], bytes) and len(row[0]) == 32


async def test_a_new_log_is_its_owners(tmp_path: Path) -> None:
    """What agents said, and the hashes of tokens; the -wal and the -shm have the mode of the file they belong to."""
    async with opened(str(tmp_path / "new.db")) as log:
        await create(log)
        for side in ("", "-wal", "-shm"):
            assert os.stat(f"{tmp_path}/new.db{side}").st_mode & 0o777 == 0o600  # noqa: PTH116


async def test_a_text_that_streams_is_not_written_at_each_update(log: EventLog) -> None:
    """What its rows have taken together is a small multiple of its length, not its square."""
    await create(log)
    await log.append("t", [say("", message_id="m", status="streaming")])
    bodies_written: list[int] = []
    for _ in range(400):
        await log.append("t", [{"event": "message_updated", "message_id": "m", "append": "x" * 40}])
        ((size,),) = await fetch(log, "SELECT length(body) FROM messages")
        if not bodies_written or bodies_written[-1] != size:
            bodies_written.append(size)
    assert len(bodies_written) < 60
    assert sum(bodies_written) < 12 * 16_000
    await log.append("t", [{"event": "message_updated", "message_id": "m", "patch": {"status": "complete"}}])
    assert (await fetch(log, "SELECT length(body) > 16000, as_of FROM messages"))[0] == (1, None)


async def test_what_few_updates_made_is_stored_once(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say("", message_id="s", status="streaming")])
    for number in range(3):
        append = {"event": "message_updated", "message_id": "s", "append": f"{number}" * 1000}
        await log.append("t", [append])
    await log.append("t", [{"event": "message_updated", "message_id": "s", "patch": {"status": "complete"}}])
    await log.append("t", [{"event": "message_updated", "message_id": "s", "patch": {"tokens": 7}}])
    ((size, as_of),) = await fetch(log, "SELECT length(body), as_of FROM messages WHERE message_id = 's'")
    assert (size < 100, as_of) == (True, None)
    _, stored = await log.message("t", "s")
    assert (stored["content"], stored["tokens"]) == ("0" * 1000 + "1" * 1000 + "2" * 1000, 7)
    for _ in range(20):
        await log.append("t", [{"event": "message_updated", "message_id": "s", "append": "!"}])
    assert (await log.message("t", "s"))[1]["content"].endswith("2" + "!" * 20)
    assert (await fetch(log, "SELECT length(body) > 3000 FROM messages"))[0] == (1,)


async def test_a_large_content_of_one_update_is_stored_once(log: EventLog) -> None:
    await create(log)
    await log.append("t", [say({"tool_name": "cat"}, message_id="c", status="running")])
    content = {"tool_name": "cat", "result": "x" * 5000}
    patch = {"content": content, "status": "complete"}
    await log.append("t", [{"event": "message_updated", "message_id": "c", "patch": patch}])
    ((size,),) = await fetch(log, "SELECT length(body) FROM messages")
    assert size < 100
    _, stored = await log.message("t", "c")
    assert stored["content"] == content
    # As earlier versions wrote it, all but the content stood in the row
    about = {"content_in": 2, "bytes": 5200, "status": "complete", "message": {**stored, "content": None}}
    await fetch(log, f"UPDATE messages SET body = CAST('{orjson.dumps(about).decode()}' AS BLOB)")
    assert (await log.message("t", "c"))[1] == stored
