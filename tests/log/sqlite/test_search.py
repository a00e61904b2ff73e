"""Search: what is found, that the index follows the log and never anything else, and that it can be made anew."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.log.helpers import create, opened, say
from tracewatch.log import EventLog, SearchQuery, TraceQuery
from tracewatch.log.sqlite import indexing
from tracewatch.log.sqlite.search import index_files, index_path
from tracewatch.model.contents import reference, taken_out
from tracewatch.model.filter import parse_filter

pytestmark = pytest.mark.anyio
Json = dict[str, Any]


async def read_all(log: EventLog) -> None:
    """Read the log for search to its end."""
    index = log.finder.index
    assert index is not None
    while await index.step():
        pass
    assert (await index.progress()).state == "current", await index.progress()


async def found(log: EventLog, text: str, **options: Any) -> list[tuple[str, int]]:
    """Where a text is found: ``(trace_id, event_id)``, through all pages."""
    places: list[tuple[str, int]] = []
    before = None
    while True:
        query = SearchQuery(parse_filter(text).terms, before=before, **options)
        hits, traces, before = await log.search(query)
        assert {hit["trace_id"] for hit in hits} == {trace["trace_id"] for trace in traces}
        places += [(hit["trace_id"], hit["event_id"]) for hit in hits]
        if before is None:
            return places


@pytest.fixture
async def log(db: Path) -> Any:
    async with opened(str(db)) as made:
        yield made


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


async def test_everything_is_found(log: EventLog) -> None:
    await create(log, "run", task="Fix the login bug", tags=["nightly"], session_id="s-17", agent_type="coder")
    tool = {"tool_name": "read_file", "arguments": {"path": "src/session.py"}, "result": "def check_cookie(): pass"}
    await log.append(
        "run",
        [
            {"event": "goal_added", "goal": {"id": "g", "description": "Find the cause"}},
            {"event": "message_added", "message": {"message_id": "x", "role": "tool", "content": tool}},
            say([{"type": "text", "text": "Crème brûlée"}]),
            say("検索エンジンの索引が壊れた, 数据库连接失败"),
            {"event": "input_requested", "request_id": "q", "question": "Deploy to production?"},
            {"event": "input_provided", "request_id": "q", "value": "tomorrow", "by": "terminal"},
            {"event": "goal_updated", "goal_id": "g", "patch": {"summary": "A missing flag"}},
            {"event": "weather", "sky": "overcast"},
            {"event": "step_added", "step": {"name": "retrieve", "output": "42 documents"}},
            {"event": "trace_completed", "status": "failed", "error": {"type": "TimeoutError", "message": "took 30 s"}},
        ],
    )  # fmt: skip
    await read_all(log)
    for text, at in (
        ("login", 0), ("nightly", 0), ("s-17", 0), ("coder", 0), ("cause", 1), ("session.py", 2), ("read_file", 2),
        ("check_cookie", 2), ("cook*", None), ("checking", None), ("creme", 3), ('"creme brulee"', 3), ("索引", 4),
        ("エンジン", 4), ("连接", 4), ("接连", None), ("production", 5), ("tomorrow", 6), ("flag", 7), ("overcast", 8),
        ("documents", 9), ("TimeoutError", 10), ("timeouterror", 10), ("Timeout*", 10), ("Timeout", None),
        ('"took 30"', 10), ('"30 took"', None), ("took TimeoutError", 10), ("took login", None),
        ("took -TimeoutError", None),
        ("Fix -bug", None), ("Fix -cause", 0), ("chec* coo* pass", 2),
    ):  # fmt: skip
        wanted = [] if at is None else [("run", at)]
        if text == "cook*":
            wanted = [("run", 2)]
        assert await found(log, text) == wanted, text


async def test_a_message_is_found_once_it_is_complete(log: EventLog) -> None:
    await create(log, "run")
    streaming = {"message_id": "a", "role": "assistant", "content": "It is ", "status": "streaming"}
    await log.append("run", [{"event": "message_added", "message": streaming}])
    await read_all(log)
    assert await found(log, "cookie") == []
    await log.append("run", [{"event": "message_updated", "message_id": "a", "append": "the coo"}])
    await read_all(log)
    assert await found(log, "It") == []
    updates: list[Json] = [{"append": "kie"}, {"patch": {"status": "complete"}}]
    await log.append("run", [{"event": "message_updated", "message_id": "a", **update} for update in updates])
    await read_all(log)
    assert await found(log, '"the cookie"') == [("run", 1)]
    await log.append("run", [{"event": "message_updated", "message_id": "a", "patch": {"content": "No, the token"}}])
    await read_all(log)
    assert (await found(log, "cookie"), await found(log, "token")) == ([], [("run", 1)])


async def test_what_was_never_completed_is_found_when_its_run_has_ended(log: EventLog) -> None:
    await create(log, "run")
    half = {"message_id": "a", "role": "assistant", "content": "half a sentence", "status": "streaming"}
    await log.append("run", [{"event": "message_added", "message": half}])
    await read_all(log)
    await log.append("run", [{"event": "trace_completed", "status": "stopped"}])
    await read_all(log)
    assert await found(log, "sentence") == [("run", 1)]


async def test_large_content_beside_the_log_is_found(log: EventLog) -> None:
    kept: list[bytes] = []

    def keep(data: bytes, media_type: str, preview: str, **more: Any) -> Json:
        kept.append(data)
        return reference(data, media_type, preview, **more)

    await create(log, "run")
    content = taken_out({"tool_name": "cat", "result": "word " * 60_000 + "needle"}, keep)
    for data in kept:

        async def pieces(data: bytes = data) -> AsyncIterator[bytes]:
            yield data

        await log.blobs.put("run", hashlib.sha256(data).hexdigest(), pieces(), media_type="text/plain")
    assert kept and len(orjson.dumps(content)) < 10_000
    await log.append("run", [{"event": "message_added", "message": {"role": "tool", "content": content}}])
    await read_all(log)
    assert await found(log, "needle") == [("run", 1)]


async def test_the_newest_runs_come_first_in_pages_and_of_each_so_many(log: EventLog) -> None:
    for name, day in (("b", "2026-03-02"), ("a", "2026-03-01"), ("c", "2026-03-03")):  # imported in no order
        await create(log, name, started_at=f"{day}T08:00:00.000Z")
        await log.append(name, [say(f"needle {n}") for n in range(4)])
    await read_all(log)
    every = [(name, event_id) for name in "cba" for event_id in (4, 3, 2, 1)]
    for limit in (1, 3, 4, 100):
        assert await found(log, "needle", limit=limit, per_trace=100) == every
    assert await found(log, "needle", limit=100, per_trace=2) == [one for one in every if one[1] > 2]
    assert await found(log, "needle", within="b", limit=3) == [one for one in every if one[0] == "b"]


async def test_a_token_of_one_trace_finds_in_it_only(log: EventLog) -> None:
    await create(log, "mine")
    await create(log, "mine.sub", parent_trace_id="mine")
    await create(log, "theirs")
    for name in ("mine", "mine.sub", "theirs"):
        await log.append(name, [say("needle")])
    await read_all(log)
    assert {one for one, _ in await found(log, "needle", traces=TraceQuery(below="mine"))} == {"mine", "mine.sub"}
    assert {one for one, _ in await found(log, "needle", traces=TraceQuery(below="mine.sub"))} == {"mine.sub"}
    assert await found(log, "needle", traces=TraceQuery(below="mine"), within="theirs") == []
    assert await found(log, "needle", traces=TraceQuery(below="none")) == []
    failed = TraceQuery(conditions=parse_filter("status:failed").conditions)
    assert await found(log, "needle", traces=failed) == []
    await log.append("theirs", [{"event": "trace_completed", "status": "failed"}])
    assert await found(log, "needle", traces=failed) == [("theirs", 1)]


async def test_what_is_gone_is_not_found_and_leaves_the_index(log: EventLog) -> None:
    await create(log, "gone")
    await log.append("gone", [say("needle")])
    await create(log, "long")
    await log.append("long", [say(f"hay{n} straw") for n in range(600)])
    await read_all(log)
    assert len(await found(log, "straw", per_trace=200, limit=200)) == 600
    await log.delete_trace("gone")
    await log.retention.trim("long", 500)
    assert await found(log, "needle") == []  # before the index hears of it
    assert len(await found(log, "straw", per_trace=200, limit=200)) == 100
    await read_all(log)
    assert await found(log, "hay100") == []
    await create(log, "gone")  # another one under its id
    await log.append("gone", [say("thread")])
    await read_all(log)
    assert (await found(log, "needle"), len(await found(log, "thread"))) == ([], 1)
    index = log.finder.index
    assert index is not None
    with closing(sqlite3.connect(index_path(log.storage.path))) as db:  # type: ignore[attr-defined]
        db.execute("INSERT INTO found (found) VALUES ('integrity-check')")
        assert db.execute("SELECT COUNT(*) FROM texts").fetchone()[0] == 100 + 2 + 1
        sql = "SELECT rowid FROM found WHERE found MATCH ?"
        assert db.execute(sql, ("hay100 OR needle",)).fetchall() == []


async def test_a_renamed_run_is_found_by_its_new_words_only(log: EventLog) -> None:
    await create(log, "run", task="old words")
    await read_all(log)
    await log.append("run", [{"event": "trace_updated", "task": "new name", "tags": ["release"]}])
    await read_all(log)
    assert [await found(log, text) for text in ("old", "new", "release")] == [[], [("run", 0)], [("run", 0)]]


async def test_an_index_made_anew_says_the_same(log: EventLog, db: Path) -> None:
    chance = random.Random(7)
    for number in range(12):
        await create(log, f"r{number}", started_at=f"2026-03-{1 + number * 5 % 12:02d}T08:00:00.000Z")
    for _ in range(60):
        name = f"r{chance.randrange(12)}"
        await log.append(name, [say(" ".join(chance.choices(["red", "green", "blue"], k=2))) for _ in range(3)])
        if chance.random() < 0.3:
            index = log.finder.index
            assert index is not None
            await index.step()
    await read_all(log)
    texts = ("red", "green -blue", '"blue red"', "re* gre*")
    before = [await found(log, text, per_trace=200) for text in texts]
    assert all(before)
    index = log.finder.index
    assert index is not None
    await index.rebuild()
    assert (await index.progress()).state == "off"
    await read_all(log)
    assert [await found(log, text, per_trace=200) for text in texts] == before


async def test_a_piece_that_was_cut_off_is_read_again(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(log, "run")
    await log.append("run", [say(f"needle {n}") for n in range(20)])
    index = log.finder.index
    assert index is not None
    write = indexing._write

    def killed(db: sqlite3.Connection, piece: indexing.Piece) -> None:
        write(db, piece)
        raise sqlite3.OperationalError("the process dies here")

    monkeypatch.setattr(indexing, "_write", killed)
    assert not await index.step()
    assert "dies here" in (await index.progress()).trouble
    monkeypatch.setattr(indexing, "_write", write)
    await read_all(log)
    assert len(await found(log, "needle", per_trace=100, limit=100)) == 20


async def test_one_of_several_processes_fills_it(log: EventLog, db: Path) -> None:
    async with opened(str(db)) as other:
        await create(log, "run")
        await log.append("run", [say("needle")])
        await read_all(log)
        assert other.finder.index is not None
        assert not await other.finder.index.step()
        assert await found(other, "needle") == [("run", 1)]
        assert log.finder.index is not None
        await log.finder.index.close()  # as if its process had ended
        await other.append("run", [say("needle again")])
        await read_all(other)
        assert len(await found(other, "needle")) == 2


@pytest.mark.parametrize("damage", ["rubbish", "truncated", "empty", "of another log", "of another version"])
async def test_an_index_that_is_of_no_use_is_made_anew(db: Path, damage: str) -> None:
    async with opened(str(db)) as log:
        await create(log, "run")
        await log.append("run", [say(f"needle {n}") for n in range(300)])
        await read_all(log)
    file = index_path(db)
    if damage == "rubbish":
        file.write_bytes(random.Random(1).randbytes(file.stat().st_size))
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        key = "epoch" if damage == "of another log" else "version"
        with closing(sqlite3.connect(file, isolation_level=None)) as index:
            index.execute("UPDATE meta SET value = 'other' WHERE key = ?", (key,))
    async with opened(str(db)) as log:
        assert log.finder.index is not None
        await log.finder.index.step()  # which may find out about it
        await log.append("run", [say("needle last")])
        await read_all(log)
        assert len(await found(log, "needle", per_trace=200, limit=200)) == 301


async def test_a_copy_of_a_log_has_an_index_of_its_own(db: Path) -> None:
    async with opened(str(db)) as log:
        await create(log, "run")
        await log.append("run", [say("needle")])
        await read_all(log)
    copy = db.with_name("copy.db")
    for source in (db, *index_files(db)):
        if source.exists():
            shutil.copy(source, source.with_name(source.name.replace("log.db", "copy.db")))
    async with opened(str(copy)) as log:
        assert log.finder.index is not None
        assert (await log.finder.index.progress()).state == "off"
        await read_all(log)
        assert await found(log, "needle") == [("run", 1)]
