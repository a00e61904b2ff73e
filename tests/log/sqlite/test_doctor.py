"""The doctor: a healthy log has no findings, whatever its history; each kind of damage is found by its name."""

# ruff: noqa: ASYNC240 (nothing else runs in these loops)

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
from collections import namedtuple
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.log.helpers import Clock, create, end, goal, notes, opened, say, sweep, trim
from tests.log.workload import work
from tracewatch.errors import LogError
from tracewatch.log import EventLog
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.doctor import ERROR, OK, WARNING, Finding, check, machine, tables
from tracewatch.log.sqlite.doctor.findings import MOST_OF_A_KIND, Findings
from tracewatch.log.sqlite.doctor.machine import file_system

pytestmark = pytest.mark.anyio


def codes(path: Path, severity: str = ERROR, **options: Any) -> set[str]:
    """What is found of a severity."""
    return {finding.code for finding in check(path, **options) if finding.severity == severity}


# --- healthy ---


@pytest.mark.parametrize("jump_s", [-5 * 3600.0, -0.000_001, 0.0, 5 * 3600.0])
async def test_a_question_that_runs_out_by_another_clock(db: Path, jump_s: float) -> None:
    """The steady clock is never the system's to the last microsecond, and hours away when that was set."""
    wall, steady = Clock(), Clock(500.0)
    async with opened(str(db), clock=wall, steady=steady) as log:
        await create(log, lease_s=30)
        for request_id in ("before", "after"):
            asked = {"event": "input_requested", "request_id": request_id, "question": "?", "expires_in_s": 60}
            await log.append("t", [asked])
            wall.now += jump_s
    for now in (wall.now, wall.now + 5 * 3600.0):
        assert codes(db, now=now) == set()
        assert "inputs" not in codes(db, WARNING, now=now)
    async with opened(str(db)):
        pass  # after a boot: the log's questions are moved to the machine's own clock
    assert codes(db) == set()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_a_log_after_all_that_can_happen_is_clean(
    log: EventLog, clock: Clock, db: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", 5)  # messages go through the temporary file
    await work(log, clock, seed, 250)
    before = {path: path.read_bytes() for path in db.parent.iterdir() if not path.name.endswith("-shm")}
    for full in (False, True):
        found = check(db, full=full, now=clock.now)
        assert [finding for finding in found if finding.severity == ERROR] == []
        assert {"integrity", "traces", "epoch", "search", "clock"} <= {one.code for one in found if one.severity == OK}
    assert {path: path.read_bytes() for path in db.parent.iterdir() if not path.name.endswith("-shm")} == before
    assert codes(backup(db, db.with_name("copy.db")).path) == set()


async def test_while_it_is_written_to(log: EventLog, db: Path) -> None:
    stop = asyncio.Event()

    async def write(name: str) -> None:
        await create(log, name)
        while not stop.is_set():
            await log.append(name, [say("x", tokens=1), *notes(50)])

    tasks = [asyncio.create_task(write(name)) for name in "abc"]
    try:
        for _ in range(5):
            assert await asyncio.to_thread(codes, db, now=2e9) == set()
    finally:
        stop.set()
        await asyncio.gather(*tasks)


def test_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no log"):
        check(tmp_path / "none.db")
    (tmp_path / "notes.txt").write_text("Shopping list: milk, bread, and many other things.\n" * 100)
    assert codes(tmp_path / "notes.txt") == {"unreadable"}
    (tmp_path / "empty.db").touch()
    assert codes(tmp_path / "empty.db") == {"schema"}
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    assert codes(tmp_path / "theirs.db") == {"schema"}


# --- damaged ---


@pytest.fixture
async def sick(log: EventLog, clock: Clock, db: Path) -> Path:
    """A closed log with a bit of everything: trace ``t`` with a snapshot, its sub-trace ``c``, a deleted one."""
    await create(log)
    await create(log, "c", parent_trace_id="t")
    await log.append("t", [goal("one"), say("Hello", tokens=5, message_id="x"), say("World", message_id="y")])
    await log.append("t", [{"event": "message_updated", "message_id": "y", "append": "!"}])
    await log.append("t", [{"event": "input_requested", "request_id": "q", "question": "?"}])
    await log.append("t", [{"event": "input_requested", "request_id": "r", "question": "?"}])
    await log.answer("t", "q", "yes")
    await log.append("t", notes(600), producer="p", seq=1)
    await log.append("c", [say("child", tokens=7), end(summary="done")])
    await create(log, "gone")
    await log.delete_trace("gone")
    await log.close()
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("UPDATE schema_migrations SET applied_at = '2020'")  # the log's clock is not SQLite's
    assert codes(db) == set()
    return db


T = "trace_key = (SELECT trace_key FROM traces WHERE trace_id = 't')"


def of_t(table: str, where: str) -> str:
    """The rows of trace ``t`` of which that is so."""
    if table == "events":
        key = "(SELECT trace_key << 32 FROM traces WHERE trace_id = 't')"
        return f"event_key > {key} AND event_key < {key} + (1 << 32) AND {where}".replace(
            "event_id", "event_key & 0xffffffff"
        )
    return f"{T} AND {where}"


def body(table: str, old: str, new: str, where: str) -> str:
    """Another text in a body."""
    return f"UPDATE {table} SET body = CAST(replace(body, '{old}', '{new}') AS BLOB) WHERE {of_t(table, where)}"


def event(event_id: int, old: str, new: str) -> str:
    """Another text in an event."""
    return body("events", old, new, f"event_id = {event_id}")


def row(table: str, change: str, where: str = "1") -> str:
    """Another value in a row."""
    return f"UPDATE {table} SET {change} WHERE {of_t(table, where)}"


def gone(table: str, where: str) -> str:
    """A row less."""
    return f"DELETE FROM {table} WHERE {of_t(table, where)}"


def more(table: str, values: str) -> str:
    """A row more."""
    return f"INSERT INTO {table} SELECT trace_key, {values} FROM traces WHERE {T}"


DAMAGES: dict[str, tuple[str, str]] = {  # what is wrong: (the SQL that makes it so, the errors that are found)
    "a missing event": (gone("events", "event_id = 100"), "event_ids"),
    "the last event missing": (gone("events", "event_id = 609"), "event_ids"),
    "the first event missing": (gone("events", "event_id = 1"), "event_ids"),
    "an event too many": (
        f"INSERT INTO events SELECT (trace_key << 32) + 610, log_bytes + 2, CAST('{{}}' AS BLOB) FROM traces WHERE {T}",
        "event",
    ),
    "a trimmed past without a base": (row("traces", "first_event_id = 100"), "base"),
    "ids the wrong way round": (row("traces", "first_event_id = 700"), "event_ids snapshot"),
    "half an event": (row("events", "body = substr(body, 1, 50)", "event_id = 9"), "end_offset event"),
    "an event of another trace": (event(9, '"trace_id":"t"', '"trace_id":"u"'), "event"),
    "an event under another id": (event(9, '"event_id":9,', '"event_id":8,'), "event"),
    "a blank in canonical bytes": (event(9, ',"ts"', ', "ts"'), "end_offset event"),
    "an event that can't be folded": (event(3, "affected_goals", "afflicted_goal"), "event"),
    "another text": (event(4, "World", "Worms"), "messages"),
    "other tokens": (event(3, '"tokens":5', '"tokens":6'), "trace_row snapshot"),
    "a wrong offset": (row("events", "end_offset = end_offset + 1", "event_id = 50"), "end_offset"),
    "a wrong sum of bytes": (row("traces", "log_bytes = log_bytes + 1"), "log_bytes"),
    "another status": (row("traces", "status = 'completed'"), "trace_row"),
    "other totals": (row("traces", "total_messages = 9, tree_messages = 10"), "trace_row"),
    "a tag by which it is not found": (row("traces", """tags = '["nightly"]'"""), "trace_row trace_words"),
    "a word of no trace": ("INSERT INTO trace_words VALUES ('tag', 'x', '2026', 999)", "orphan_rows"),
    "a tag that it does not have": (
        f"INSERT INTO trace_words SELECT 'tag', 'x', began, trace_key FROM traces WHERE {T}",
        "trace_words",
    ),
    "another summary": (row("traces", "summary = 'x'"), "trace_row"),
    "another error": (row("traces", "error = '{'"), "trace_row"),
    "other sums of the tree": (row("traces", "tree_tokens = tree_tokens + 1"), "tree_totals"),
    "another cost of the tree": (row("traces", "tree_cost = 0.1"), "tree_totals"),
    "a damaged snapshot": (row("snapshots", "body = '{'"), "snapshot"),
    "another state in a snapshot": (body("snapshots", '"total_tokens":5', '"total_tokens":4', "1"), "snapshot"),
    "a snapshot of the future": (row("snapshots", "event_id = 1000"), "snapshot"),
    "a missing message": (gone("messages", "message_id = 'x'"), "messages"),
    "a message of no event": (more("messages", "9, 'z', NULL, 9, NULL, NULL"), "messages"),
    "a message as it was": (row("messages", "body = NULL", "message_id = 'y'"), "messages"),
    "a message of another goal": (row("messages", "goal_id = '7'", "message_id = 'x'"), "messages"),
    "another text of a message": (body("messages", "World!", "World?", "message_id = 'y'"), "messages"),
    "a missing question": (gone("inputs", "request_id = 'r'"), "inputs"),
    "a missing answered question": (gone("inputs", "request_id = 'q'"), "inputs"),
    "an answered question that is open": (row("inputs", "state = 'open'", "request_id = 'q'"), "inputs"),
    "another answer": (row("inputs", "answer = replace(answer, 'yes', 'nay')", "request_id = 'q'"), "inputs"),
    "another question": (body("inputs", "?", "!", "request_id = 'r'"), "inputs"),
    "another expiry": (row("inputs", "expires_at = 5", "request_id = 'r'"), "inputs"),
    "a question nobody asked": (more("inputs", "'s', 700, '', NULL, 'closed', NULL, NULL"), "inputs"),
    "a producer ahead of the log": (row("producers", "last_seq = 10000"), "producers"),
    "rows without a trace": ("DELETE FROM traces WHERE trace_id = 'c'", "orphan_rows"),
    "a counter that went back": ("UPDATE change_counter SET change_seq = 1", "change_counter"),
    "no counter": ("DELETE FROM change_counter", "change_counter"),
    "a deleted trace that is there": ("INSERT INTO deleted_traces VALUES ('t', 5, 1)", "deleted_trace"),
    "a search index with a hole": ("DELETE FROM traces_text_docsize WHERE id = 1", "search"),
    "an epoch that is none": ("UPDATE meta SET value = 'a.b' WHERE key = 'epoch'", "epoch"),
    "a newer schema": ("INSERT INTO schema_migrations (number, name) VALUES (999, '0999_later.sql')", "schema"),
    "values of another type": (row("traces", "first_event_id = x'00'"), "trace_unreadable"),
    "a table that is gone": ("DROP TABLE producers", "unreadable"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damages(sick: Path, name: str) -> None:
    sql, expected = DAMAGES[name]
    with closing(sqlite3.connect(sick, isolation_level=None)) as connection:
        assert connection.execute(sql).rowcount in (1, -1), "the damage is done"
    found = [finding for finding in check(sick) if finding.severity == ERROR]
    assert {finding.code for finding in found} == set(expected.split()), found
    assert all(finding.message and finding.advice for finding in found)


@pytest.mark.parametrize("where", [0, 100, 4096, 4096 * 5 + 7, -4096])
async def test_bytes_of_the_file(sick: Path, where: int) -> None:
    data = bytearray(sick.read_bytes())
    for place in range(where, where + 64):
        data[place] ^= 0x5A
    sick.write_bytes(data)
    assert codes(sick)


async def test_what_is_only_worth_a_word(sick: Path, clock: Clock) -> None:
    def told(sql: str = "", **options: Any) -> set[str]:
        with closing(sqlite3.connect(sick, isolation_level=None)) as connection:
            connection.execute(sql)
        return codes(sick, WARNING, **options) - codes_before

    codes_before = codes(sick, WARNING, now=clock.now)
    assert told(now=clock.now - 3600) == {"clock"}
    assert told("DELETE FROM snapshots", now=clock.now) == {"snapshot_missing"}
    assert told("DELETE FROM meta WHERE key = 'epoch'", now=clock.now) == {"snapshot_missing", "epoch"}
    assert told("DELETE FROM schema_migrations WHERE number > 2", now=clock.now) == {"schema"}


async def test_a_log_that_is_broken_everywhere_fills_no_screen(log: EventLog, db: Path) -> None:
    for number in range(MOST_OF_A_KIND + 5):
        await create(log, f"t{number}")
    await log.close()
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("UPDATE traces SET status = 'failed'")
    found = [finding for finding in check(db) if finding.severity == ERROR]
    assert len(found) == MOST_OF_A_KIND + 1
    assert found[-1].message == "and 5 more of this kind"


async def test_rows_that_lead_a_life_of_their_own_cost_no_memory(log: EventLog, db: Path) -> None:
    """Messages that are updated long after they have left memory."""
    await create(log)
    await log.append("t", [say("a", message_id=f"x{n}") for n in range(900)])
    updates = [{"event": "message_updated", "message_id": f"x{n}", "append": "b"} for n in range(900)]
    for _ in range(3):
        await log.append("t", updates)
    kept, tables.IN_MEMORY = tables.IN_MEMORY, 10
    try:
        assert codes(db) == set()
    finally:
        tables.IN_MEMORY = kept


async def test_a_message_that_streams(log: EventLog, db: Path) -> None:
    """Its row may be behind its events, and is judged with them, as readers see it."""
    await create(log)
    await log.append("t", [say("a" * 100, message_id="m", status="streaming")])
    for _ in range(20):
        await log.append("t", [{"event": "message_updated", "message_id": "m", "append": "b"}])
    assert codes(db) == set()
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        (as_of,) = connection.execute("SELECT as_of FROM messages").fetchone()
        assert as_of < 21, "it is behind"
        connection.execute(body("messages", "aaab", "aaac", "message_id = 'm'"))
    assert codes(db) == {"messages"}


# --- the machine ---


def machine_codes(path: Path, severity: str) -> set[str]:
    return codes(path, severity) & {
        *("sqlite_version", "file_system", "free_space", "permissions", "second_name", "leftover_file", "open_files"),
        *("somaxconn", "wal_size"),
    }


async def test_the_machine(sick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def now(severity: str, code: str) -> bool:
        return code in machine_codes(sick, severity)

    usage = namedtuple("usage", "total used free")
    for version, severity in (((3, 51, 2), WARNING), ((3, 51, 3), OK), ((3, 6, 0), OK)):
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        assert now(severity, "sqlite_version")
    for free, severity in ((1 << 20, ERROR), (100 << 20, WARNING), (1 << 40, OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(0, 0, free))
        assert now(severity, "free_space")
    for files, severity in ((1024, WARNING), (65536, OK), (resource.RLIM_INFINITY, OK)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, files=files: (files, files))
        assert now(severity, "open_files")
    for mode, severity in ((0o400, ERROR), (0o620, WARNING), (0o644, WARNING), (0o600, OK), (0o640, OK)):
        sick.chmod(mode)
        assert now(severity, "permissions"), oct(mode)
    (tmp_path / "log.db.unfinished-1234").touch()
    assert now(WARNING, "leftover_file")
    (tmp_path / "second").hardlink_to(sick)
    assert now(WARNING, "second_name")
    with (tmp_path / "log.db-wal").open("wb") as file:
        os.truncate(file.fileno(), 300 << 20)
    assert now(WARNING, "wal_size")


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/x /srv nfs4 rw 0 0
tmpfs /srv/fast\\040one tmpfs rw 0 0
overlay /var overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "severity"),
    [
        ("/a.db", "ext4", OK),
        ("/srvx/a.db", "ext4", OK),
        ("/srv/a.db", "nfs4", ERROR),
        ("/srv/fast one/a.db", "tmpfs", WARNING),
        ("/var/lib/a.db", "overlay", WARNING),
    ],
)
def test_file_systems(path: str, kind: str, severity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (file_system(Path(path), MOUNTS) or ("",))[0] == kind
    monkeypatch.setattr(machine, "file_system", lambda path, mounts: (kind, "/"))
    found = Findings()
    machine._file_system(found, Path(path))
    assert [one.severity for one in found.all()] == [severity]


def test_findings_are_json() -> None:
    finding = Finding(ERROR, "code", "message", "advice", "t")
    assert finding.to_json() == {
        "severity": "error",
        "code": "code",
        "message": "message",
        "advice": "advice",
        "trace_id": "t",
    }


async def test_a_trimmed_log_is_judged_from_its_base(log: EventLog, clock: Clock, db: Path) -> None:
    await create(log)
    await log.append("t", [say("x", message_id="x", status="streaming"), say("y"), *notes(700)])
    await log.append("t", [{"event": "input_requested", "request_id": "r", "question": "?"}, *notes(500)])
    assert await trim(log, "t", 1000)
    assert codes(db, now=clock.now) == set(), "what is on its way out does no harm"
    while await sweep(log):
        assert codes(db, now=clock.now) == set()
    await log.append("t", [{"event": "message_updated", "message_id": "x", "append": "!"}, say("z")])
    assert codes(db, now=clock.now) == set()
    assert codes(db, WARNING, now=clock.now) <= {"sqlite_version", "permissions", "open_files", "somaxconn"}
    for sql, code in (
        (gone("messages", "message_id = 'm1205'"), "messages"),
        (row("events", "body = body || ' '", "event_id = 1001"), "event"),
        (gone("snapshots", "1"), "base"),
    ):
        with closing(sqlite3.connect(db, isolation_level=None)) as connection:
            assert connection.execute(sql).rowcount == 1, sql
        assert code in codes(db)
