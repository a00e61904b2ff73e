"""A database of the version before migration 5 can be opened, and has the same contents as before.

``before_0005.db.gz`` is such a file. It has goals, streamed and trimmed messages, questions in every state, sub-traces
to three levels, a deleted trace, a lost one, and the traces of a random workload. The hashes are those of that
version's output: each trace's export, its messages, its summary and its questions.
"""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.log.helpers import Clock, all_messages, bodies, check_trace, create, notes, opened, say
from tracewatch.cli.export import HEADER
from tracewatch.log import EventLog, TraceQuery
from tracewatch.log.sqlite.doctor import errors
from tracewatch.model.base import make_base
from tracewatch.model.frames import snapshot_values

pytestmark = pytest.mark.anyio
LATER = {"started_at", "ended_at", "active_at", "session_id", "user_id", "tags", "models", "cost_source"}
NOW = 1_790_100_000.0
HASHES = {
    "t119": "99a230bf7338772c1f40c3c2089c4e899a11d9c9e8eecc2c886011066e38cb88",
    "t145": "6913ad72cef6c8f3df57720844c6545705939f8f4d039c1ccea4c78053bdd6e8",
    "t144": "53840b9267d95a87f0e6cc8fe5da9ff871f8e43fbd3ef17fc13d88c09873f144",
    "t142": "7257ec9aa77a5118408226ea0bf38e8b91cecb42b5b8b362ef41b09cb710cff3",
    "t116": "d9ab8007a62c451314cec69b63d37c68660b46e581630a2b323649461fc1711a",
    "t115": "cf4dcd2038fcae7afaaf89faab7d5f81429e0800b0224e8ca1f50b061131b733",
    "t101": "4834cbfeba95fb0c175f06dded03a3f3756ba683eca33ed52af7999e2e0f65c6",
    "failed": "f55c8a00b549aa6b93a98096f298fc136a15fca7d5b2ededecfe809d909d9e37",
    "long": "6c2a01e236b831e0d84085a0da2314f823c2a693e603db8f888f4a059386589a",
    "asks": "a14fe5dba1a54fe4972ecaa19b21d196c162ce2bc0f5b6e8c4be08bdcc861779",
    "subsub": "a5c4935707891e5b71743779c997ddd5738340149cfa350777bdbf94fc0c952b",
    "sub": "8946ded054b083e4229a8ff5980ae3f7eec2607c9ee15b0d195d782c46daf321",
    "root": "2d8c2664d2f3e83a4a4ade4ab20e604f7a6bcbbd7a64d60ef01aadc306e6fad9",
}


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "log.db"
    path.write_bytes(gzip.decompress(Path(__file__).with_name("before_0005.db.gz").read_bytes()))
    return path


def as_before(value: Any) -> Any:
    """What that version would have said: without what came later, and 0 for a cost that is not known."""
    if isinstance(value, list):
        return [as_before(one) for one in value]
    if not isinstance(value, dict):
        return value
    told = {key: as_before(one) for key, one in value.items() if key not in LATER}
    return {**told, "total_cost": 0.0} if "total_cost" in told and told["total_cost"] is None else told


async def given_out(log: EventLog, trace_id: str) -> str:
    """A hash of all that the log gives out of a trace."""
    (row,) = await log.summaries([trace_id])
    header = {key: row[key] for key in HEADER}
    if row["first_event_id"] > 1:
        state = (await log.snapshot(trace_id, row["first_event_id"] - 1)).state
        header["base"] = as_before(make_base(snapshot_values(state, lease_alive=True)))
    parts = [
        orjson.dumps({"trace": header}) + b"\n",
        *(body + b"\n" for body in await bodies(log, trace_id)),
        *(orjson.dumps(as_before(message)) + b"\n" for message in await all_messages(log, trace_id)),
        orjson.dumps(as_before(row)),
        orjson.dumps(await log.inputs_of(trace_id)),
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()


async def test_it_is_what_it_was(db: Path) -> None:
    async with opened(str(db), clock=Clock(NOW)) as log:
        listed, _ = await log.traces(TraceQuery(limit=1000))
        assert {row["trace_id"]: await given_out(log, row["trace_id"]) for row in listed} == HASHES
    assert errors(db) == []


async def test_it_goes_on(db: Path) -> None:
    """Its messages that stream, whose rows have no ``as_of`` yet, and the ids of what was deleted."""
    async with opened(str(db), clock=Clock(NOW)) as log:
        before = (await log.message("root", "stream"))[1]["content"]
        for _ in range(20):
            await log.append("root", [{"event": "message_updated", "message_id": "stream", "append": "!"}])
        assert (await log.message("root", "stream"))[1]["content"] == before + "!" * 20
        await log.append("long", [{"event": "message_updated", "message_id": "early", "append": "?"}])
        assert (await log.message("long", "early"))[1]["content"].endswith("!?")
        await create(log, "deleted")
        assert (await log.append("deleted", notes(1))).first_event_id == 8
        await log.append("root", [say("x") for _ in range(500)])
        await check_trace(log, "root")
    assert errors(db) == []


async def test_what_came_without_its_parent_is_below_nothing(db: Path) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE traces SET parent_trace_id = 'lost' WHERE trace_id = 'failed'")
    connection.close()
    async with opened(str(db), clock=Clock(NOW)) as log:
        assert not await log.tokens.covers("lost", "failed")
        assert await log.tokens.covers("root", "subsub")
