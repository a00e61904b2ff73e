"""Migrations: they run in order, once, and whole or not at all; an unknown database is refused."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.log.helpers import check_trace, create, opened
from tracewatch.errors import LogError, NewerDatabase
from tracewatch.log import open_log
from tracewatch.log.sqlite.migrate import available, migrate, migrations_dir, statements

pytestmark = pytest.mark.anyio


@pytest.fixture
def connection(db: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(db, isolation_level=None)) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    return made


def write(folder: Path, number: int, sql: str, name: str = "step") -> None:
    (folder / f"{number:04}_{name}.sql").write_text(sql, encoding="utf-8")


def look(db: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(db) as reader:
        found = reader.execute(sql).fetchall()
    reader.close()
    return found


async def test_in_order_recorded_and_once(connection: sqlite3.Connection, folder: Path, db: Path) -> None:
    write(folder, 1, "CREATE TABLE a (x);\nINSERT INTO a VALUES (1);")
    write(folder, 2, "INSERT INTO a SELECT x + 1 FROM a;")
    assert migrate(connection, folder) == [1, 2]
    assert migrate(connection, folder) == []
    write(folder, 3, "INSERT INTO a SELECT x + 10 FROM a; CREATE TABLE b (y);")
    (folder / "notes.txt").write_text("no migration")
    assert migrate(connection, folder) == [3]
    assert look(db, "SELECT x FROM a ORDER BY x") == [(1,), (2,), (11,), (12,)]
    recorded = look(db, "SELECT number, name, applied_at FROM schema_migrations")
    assert [row[:2] for row in recorded] == [(1, "0001_step.sql"), (2, "0002_step.sql"), (3, "0003_step.sql")]
    assert all(str(row[2]).endswith("Z") for row in recorded)


@pytest.mark.parametrize(
    "bad",
    ["CREATE TABLE b (x);\nINSERT INTO nowhere VALUES (1);", "CREATE TABLE b (x);\nCREATE TABLE", "DROP TABLE a;\nX;"],
)
async def test_a_failing_one_leaves_nothing_of_itself(
    connection: sqlite3.Connection, folder: Path, db: Path, bad: str
) -> None:
    write(folder, 1, "CREATE TABLE a (x);")
    write(folder, 2, bad)
    write(folder, 3, "CREATE TABLE c (x);")
    with pytest.raises(LogError):
        migrate(connection, folder)
    assert look(db, "SELECT number FROM schema_migrations") == [(1,)]
    assert look(db, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name") == [
        ("a",),
        ("schema_migrations",),
    ]
    write(folder, 2, "CREATE TABLE b (x);")
    assert migrate(connection, folder) == [2, 3]


async def test_a_newer_database_is_refused(url: str, db: Path) -> None:
    async with opened(url) as log:
        await create(log)
    with sqlite3.connect(db) as writer:
        writer.execute("INSERT INTO schema_migrations (number, name) VALUES (99, '0099_future.sql')")
    writer.close()
    with pytest.raises(NewerDatabase) as caught:
        await open_log(url)
    assert "upgrade tracewatch" in caught.value.message
    with sqlite3.connect(db) as writer:
        writer.execute("DELETE FROM schema_migrations WHERE number = 99")
    writer.close()
    async with opened(url) as log:
        await check_trace(log)


async def test_a_renamed_one_is_refused(connection: sqlite3.Connection, folder: Path) -> None:
    write(folder, 1, "CREATE TABLE a (x);")
    migrate(connection, folder)
    (folder / "0001_step.sql").rename(folder / "0001_other.sql")
    with pytest.raises(LogError, match=r"0001_step\.sql.*0001_other\.sql"):
        migrate(connection, folder)


@pytest.mark.parametrize("numbers", [(2,), (1, 3), (0, 1)])
async def test_holes_in_the_numbers(folder: Path, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        write(folder, number, "SELECT 1;")
    with pytest.raises(LogError, match="not numbered"):
        available(folder)


async def test_the_same_number_twice(folder: Path) -> None:
    write(folder, 1, "SELECT 1;")
    write(folder, 1, "SELECT 1;", "again")
    with pytest.raises(LogError, match="not numbered"):
        available(folder)


async def test_many_start_at_once(url: str, db: Path) -> None:
    logs = await asyncio.gather(*(open_log(url) for _ in range(6)))
    assert len({log.epoch for log in logs}) == 1
    await asyncio.gather(*(create(log) for log in logs))
    for log in logs:
        await log.close()
    assert look(db, "SELECT number FROM schema_migrations") == [(number,) for number, _, _ in available()]


async def test_the_epoch_stays(url: str) -> None:
    epochs = set()
    for _ in range(2):
        async with opened(url) as log:
            epochs.add(log.epoch)
    assert len(epochs) == 1


async def test_our_own_can_be_split() -> None:
    for _, _, path in available(migrations_dir() / "sqlite"):
        script = path.read_text(encoding="utf-8")
        parts = statements(script)
        assert sum(part.startswith("CREATE TRIGGER") for part in parts) == script.count("CREATE TRIGGER")
        assert all(sqlite3.complete_statement(part) for part in parts)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", 0),
        ("-- only; a comment\n  -- and another\n", 0),
        ("SELECT 1;", 1),
        ("SELECT 1; SELECT 2;\nSELECT 3;", 3),
        ("SELECT ';' ; SELECT 2;", 2),
        ("SELECT 1; -- why; because\nSELECT 2; -- end", 2),
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT 2; END; SELECT 3;", 2),
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  SELECT ';';\nEND;\n", 1),
    ],
)
async def test_statements(script: str, expected: int) -> None:
    assert len(statements(script)) == expected


@pytest.mark.parametrize("script", ["SELECT 1", "SELECT 1;\nSELECT", "SELECT 'a;", "CREATE TRIGGER t BEGIN SELECT 1;"])
async def test_half_a_statement(script: str) -> None:
    with pytest.raises(LogError, match="middle"):
        statements(script)
