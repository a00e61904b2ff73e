"""Contents in a SQLite file: the doctor finds what is wrong with them, and backups take them along."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.log.contract.test_blobs import content, name_of, put, reference, sweep_all
from tests.log.helpers import create, opened, say
from tracewatch.log import EventLog
from tracewatch.log.sqlite.backup import backup
from tracewatch.log.sqlite.doctor import ERROR, check
from tracewatch.log.sqlite.restore import restore_file
from tracewatch.log.storage import PIECE_BYTES

pytestmark = pytest.mark.anyio
BODY = content(3 * PIECE_BYTES + 5)


async def filled(log: EventLog) -> None:
    """Two traces with the same content, one of them deleted, and another one with content that is not named."""
    for trace_id in ("t", "u", "gone"):
        await create(log, trace_id)
        await put(log, BODY, trace_id)
        await log.append(trace_id, [say(reference(BODY)), {"event": "note", "see": [reference(BODY)]}])
    await put(log, b"not named", "u")
    await log.delete_trace("gone")


async def test_a_healthy_log_is_healthy(log: EventLog, db: Path) -> None:
    await filled(log)
    assert not [finding for finding in check(db, full=True) if finding.severity == ERROR]
    await sweep_all(log)
    found = check(db)
    assert not [finding for finding in found if finding.severity == ERROR]
    (said,) = [finding.message for finding in found if finding.code == "blobs"]
    assert said.startswith("2 blobs of 3,145,742 bytes")


DAMAGE = {
    "another byte": ("UPDATE blob_pieces SET body = zeroblob(length(body)) WHERE piece = 1", {"blob"}),
    "a piece that is gone": ("DELETE FROM blob_pieces WHERE piece = 1", {"blob"}),
    "a piece that is shorter": ("UPDATE blob_pieces SET body = x'00' WHERE piece = 3", {"blob"}),
    "a content that is gone": ("DELETE FROM blobs WHERE bytes > 100", {"orphan_blobs", "blob_missing"}),
    "a trace's that is gone": ("DELETE FROM trace_blobs WHERE trace_key = 1", {"blob_missing"}),
    "nobody's": ("DELETE FROM trace_blobs WHERE bytes < 100", {"orphan_blobs"}),
    "of no trace": ("UPDATE trace_blobs SET trace_key = 99 WHERE bytes < 100", {"orphan_rows"}),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_damage_is_found(log: EventLog, db: Path, kind: str) -> None:
    await filled(log)
    await sweep_all(log)
    await log.close()
    sql, codes = DAMAGE[kind]
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute(sql)
    assert {finding.code for finding in check(db) if finding.severity == ERROR} == codes


async def test_a_backup_has_them(db: Path, tmp_path: Path) -> None:
    async with opened(f"sqlite:///{db}") as log:
        await filled(log)
        copy = backup(db, tmp_path / "copy.db").path
        await log.delete_trace("t")
        await log.delete_trace("u")
        await sweep_all(log)
    restore_file(copy, db, replace=True)
    async with opened(f"sqlite:///{db}") as again:
        assert await again.blobs.whole("t", name_of(BODY)) == BODY
    assert not [finding for finding in check(db) if finding.severity == ERROR]
