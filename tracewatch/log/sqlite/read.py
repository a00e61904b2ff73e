"""What is read from a SQLite log: functions of a ``sqlite3.Connection``, each one statement or called in a transaction.

Rule: a trace's row is always read with ``TRACE_COLUMNS``, in the order of ``TraceRow``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson

from ...model.canonical import OPEN_STATUSES
from .. import project
from ..counts import LIVE
from ..patience import Patience
from ..row import PAGE_BYTES, TraceRow, object_of
from ..row import TRACE_COLUMNS as COLUMNS
from ..storage import Gathering, Head, KeptSnapshot, OpenInput, StateParts, StoredMessage, TraceInput, View
from ..sums import SUM_NAMES
from ..views import Grown, Page, Token
from . import blobs
from .faults import hole
from .keys import EVENT_ID_BITS, OF_EVENT, event_key
from .lists import BELOW, COVERED, LIST_COLUMNS, listed

T = TypeVar("T")

TRACE_COLUMNS = ", ".join(COLUMNS)
TREE_COLUMNS = tuple(f"tree_{name}" for name in SUM_NAMES)
TOKEN_COLUMNS = "token_id, hash, scopes, trace_id, label, created_at, expires_at, revoked_at"
PAGE_EVENTS = 500  # read at once to fold a state, and
STATE_BYTES = 1024 * 1024  # of them

# The trace_ids in the JSON array ``?1``, and all above them and above where they were when they came
_ABOVE = (
    "WITH RECURSIVE up (trace_id) AS (SELECT value FROM json_each(?1) UNION SELECT t.parent_trace_id FROM traces AS t"
    " JOIN up USING (trace_id) WHERE t.parent_trace_id IS NOT NULL AND NOT t.apart"
    " UNION SELECT p.trace_id FROM up JOIN traces AS t USING (trace_id)"
    " JOIN traces AS p ON p.trace_key = t.cover_key AND t.moved)"
)
# The trace ``?1`` and all that cover it
_COVERS = (
    "WITH RECURSIVE up (trace_id) AS (SELECT ?1 UNION SELECT t.parent_trace_id FROM traces AS t"
    " JOIN up USING (trace_id) WHERE t.parent_trace_id IS NOT NULL AND NOT t.apart AND NOT t.moved"
    " UNION SELECT p.trace_id FROM up JOIN traces AS t USING (trace_id)"
    " JOIN traces AS p ON p.trace_key = t.cover_key AND t.moved)"
)
# The trace's row, then its events, in one statement: no ORDER BY, which would sort what the tree has in order already;
# what comes back is checked to be consecutive.
_AT = f"((SELECT trace_key FROM traces WHERE trace_id = ?1) << {EVENT_ID_BITS}) + ?2"
_PAGE = f"""
SELECT first_event_id, last_event_id, status, trace_key FROM traces WHERE trace_id = ?1
UNION ALL
SELECT {OF_EVENT}, body, NULL, NULL FROM events
WHERE event_key > {_AT} AND event_key <= {_AT} + ?3
AND (event_key = {_AT} + 1 OR end_offset <= ?4 + (
    SELECT end_offset - length(body) FROM events WHERE event_key = {_AT} + 1
))
"""
# One statement is one read transaction. The newest change number comes last
_CHANGES = """
SELECT trace_id, last_event_id, status FROM traces WHERE change_seq > ?1
UNION ALL
SELECT trace_id, last_event_id, 'deleted' FROM deleted_traces WHERE change_seq > ?1
UNION ALL
SELECT NULL, change_seq, NULL FROM change_counter
"""
_MADE_OF = f"substr(m.body, 1, {len(project.MADE_OF)}) = x'{project.MADE_OF.hex()}'"
_MESSAGES = (
    "SELECT m.message_id, m.sequence, m.event_id, m.as_of, m.body,"
    f" CASE WHEN m.body IS NULL OR {_MADE_OF} THEN e.body END"
    f" FROM messages AS m LEFT JOIN events AS e ON e.event_key = (m.trace_key << {EVENT_ID_BITS}) + m.event_id"
)
_UPDATED = b'{"event":"message_updated",'

Rows = dict[str, TraceRow]


def _ids(values: Iterable[str]) -> str:
    return orjson.dumps(list(values)).decode()


def trace_rows(db: sqlite3.Connection, trace_ids: Iterable[str]) -> Rows:
    """The rows of those of ``trace_ids`` that exist, by trace_id."""
    ids = list(trace_ids)
    if len(ids) == 1:  # most often, at each append
        found = db.execute(f"SELECT {TRACE_COLUMNS} FROM traces WHERE trace_id = ?", ids)
    else:
        sql = f"SELECT {TRACE_COLUMNS} FROM traces WHERE trace_id IN (SELECT value FROM json_each(?))"
        found = db.execute(sql, (_ids(ids),))
    return {row[1]: TraceRow(*row) for row in found}


def rows_above(db: sqlite3.Connection, trace_ids: Iterable[str]) -> Rows:
    """The rows of these and of all above them."""
    sql = f"{_ABOVE} SELECT {TRACE_COLUMNS} FROM up JOIN traces USING (trace_id)"
    return {row[1]: TraceRow(*row) for row in db.execute(sql, (_ids(trace_ids),))}


def rows_below(db: sqlite3.Connection, trace_id: str) -> Rows:
    """The rows of a trace and of all below it, each behind the one above it."""
    names = [str(name) for (name,) in db.execute(BELOW, (trace_id,))]
    found = trace_rows(db, names)
    return {name: found[name] for name in names if name in found}


def keys_below(db: sqlite3.Connection, trace_id: str, *, covered: bool) -> list[int]:
    """See Storage.keys_below."""
    sql = f"SELECT trace_key FROM traces WHERE trace_id IN ({COVERED if covered else BELOW})"
    return [key for (key,) in db.execute(sql, (trace_id,))]


def is_below(db: sqlite3.Connection, root_id: str, trace_id: str) -> bool:
    """Whether a token of ``root_id`` alone covers ``trace_id``: it was below it when it came, or is it itself."""
    sql = f"{_COVERS} SELECT 1 FROM up WHERE trace_id = ?2"
    return db.execute(sql, (trace_id, root_id)).fetchone() is not None


# --- one trace -------------------------------------------------------------------------------------------------


def page(db: sqlite3.Connection, trace_id: str, after: int, max_events: int, max_bytes: int) -> Page | None:
    """See Storage.page. Cut by end_offset, so that no body behind the cut is read."""
    rows = db.execute(_PAGE, (trace_id, after, max_events, max_bytes)).fetchall()
    if not rows:
        return None
    (first, last, status, key), found = rows[0], [(event_id, body) for event_id, body, _, _ in rows[1:]]
    if not first <= after + 1 <= last:
        found = []  # trimmed, or the end: the page says so by its first and last_event_id
    elif not found or [row[0] for row in found] != list(range(after + 1, after + 1 + len(found))):
        raise hole(trace_id, after)
    elif b"\0" in b"".join([body for _, body in found]):
        # No JSON holds it, and a page of zeros or of rubbish does: SQLite has no checksums
        raise sqlite3.DatabaseError(f"trace {trace_id}: an event after {after} is not what was stored")
    return Page([body for _, body in found], after, first, last, status, key)


def state_parts(
    db: sqlite3.Connection, row: TraceRow, upto: int, known: Head | None, skip: Collection[int] = ()
) -> StateParts:
    """What makes the state after ``upto``, or the next page of it, of the known one or the nearest snapshot."""
    base = None if known is None or known.trace_key != row.trace_key else known.event_id
    if base is not None and not row.first_event_id - 1 <= base <= upto:
        base = None  # what comes between was trimmed meanwhile, or it is too new
    snapshot = None
    if base is None or upto - base > project.SNAPSHOT_EVERY:  # far behind: a kept snapshot is nearer
        but = f" AND event_id NOT IN ({', '.join(str(int(one)) for one in skip)})" if skip else ""
        snapshot = db.execute(
            f"SELECT event_id, body FROM snapshots WHERE trace_key = ? AND event_id BETWEEN ? AND ?{but}"
            " ORDER BY event_id DESC LIMIT 1",
            (row.trace_key, row.first_event_id - 1 if base is None else base + 1, upto),
        ).fetchone()
    if snapshot is not None:
        base = snapshot[0]
    elif base is None:
        base = row.first_event_id - 1
    sql = "SELECT body FROM events WHERE event_key BETWEEN ? AND ? ORDER BY event_key LIMIT ?"
    bodies: list[bytes] = []
    room = STATE_BYTES
    for (body,) in db.execute(sql, (event_key(row.trace_key, base + 1), event_key(row.trace_key, upto), PAGE_EVENTS)):
        bodies.append(body)
        room -= len(body)
        if room <= 0:
            break
    if room > 0 and len(bodies) != min(PAGE_EVENTS, upto - base):
        raise hole(row.trace_id, base)
    return StateParts(base, None if snapshot is None else snapshot[1], bodies)


def kept_snapshot(db: sqlite3.Connection, row: TraceRow) -> KeptSnapshot | None:
    """The newest snapshot that is kept, and where it stands."""
    sql = "SELECT event_id, length(body) FROM snapshots WHERE trace_key = ? ORDER BY event_id DESC LIMIT 1"
    found = db.execute(sql, (row.trace_key,)).fetchone()
    if found is None:
        return None
    # Those up to it may be gone
    sql = "SELECT end_offset - length(body) FROM events WHERE event_key = ?"
    behind = db.execute(sql, (event_key(row.trace_key, found[0] + 1),)).fetchone()
    return KeptSnapshot(row.log_bytes if behind is None else behind[0], found[1])


def kept_before(db: sqlite3.Connection, key: int, event_id: int) -> int:
    """See Storage.kept_before."""
    sql = "SELECT COALESCE(MAX(event_id), 0) FROM snapshots WHERE trace_key = ? AND event_id <= ?"
    return int(db.execute(sql, (key, event_id)).fetchone()[0])


def view(
    db: sqlite3.Connection,
    trace_id: str,
    known: Head | None,
    upto: int | None,
    *,
    subs: bool,
    skip: Collection[int] = (),
) -> View | None:
    """See Storage.view."""
    row = trace_rows(db, [trace_id]).get(trace_id)
    if row is None:
        return None
    below: list[TraceRow] = []
    if subs:
        sql = f"SELECT {LIST_COLUMNS} FROM traces WHERE parent_trace_id = ? AND NOT apart"
        below = [listed(values) for values in db.execute(sql, (trace_id,))]
    if upto is None:
        if known is not None and known.trace_key == row.trace_key and known.event_id >= row.last_event_id:
            return View(row, None, below)
        upto = row.last_event_id
    elif not row.first_event_id - 1 <= upto <= row.last_event_id:
        return View(row, None, below)
    return View(row, state_parts(db, row, upto, known, skip), below)


def last_seq(db: sqlite3.Connection, trace_id: str, producer: str) -> int:
    """See Storage.last_seq."""
    sql = "SELECT last_seq FROM producers JOIN traces USING (trace_key) WHERE trace_id = ? AND producer = ?"
    found = db.execute(sql, (trace_id, producer)).fetchone()
    return 0 if found is None else int(found[0])


# --- messages --------------------------------------------------------------------------------------------------


def _stored(db: sqlite3.Connection, key: int, rows: Iterable[Sequence[Any]]) -> list[StoredMessage]:
    """Rows of ``_MESSAGES`` of one trace, with the updates that are still to be applied to them."""
    rows = list(rows)
    as_of = [row[3] for row in rows if row[3] is not None]
    later: dict[str, list[bytes]] = {}
    for update in updates(db, key, max(min(as_of), _boundary(db, key))) if as_of else ():
        name = object_of(update).get("message_id")
        for one in [name] if name is not None else [row[0] for row in rows]:  # a damaged one may be of any of them
            later.setdefault(one, []).append(update)
    found = []
    for name, sequence, event_id, at, body, event in rows:
        behind = later.get(name, []) if at is not None else []
        if (made := project.events_of(body)) is not None:
            behind = _bodies(db, key, made.event_ids)
            body = None if made.whole else body
        whole = event if body is None else body
        found.append(StoredMessage(name, sequence, event_id, at, whole, body is None, behind))
    return found


def _bodies(db: sqlite3.Connection, key: int, event_ids: Sequence[int]) -> list[bytes]:
    marks = ", ".join("?" * len(event_ids))
    sql = f"SELECT body FROM events WHERE event_key IN ({marks}) ORDER BY event_key"
    return [body for (body,) in db.execute(sql, [event_key(key, one) for one in event_ids])]


def _boundary(db: sqlite3.Connection, key: int) -> int:
    """The event at which no row was behind: nobody has to look for updates before it."""
    (last,) = db.execute("SELECT last_event_id FROM traces WHERE trace_key = ?", (key,)).fetchone()
    return int(last) // project.SNAPSHOT_EVERY * project.SNAPSHOT_EVERY


def updates(db: sqlite3.Connection, key: int, after: int) -> list[bytes]:
    """The message_updated events of a trace after ``after``."""
    sql = (
        f"SELECT body FROM events WHERE event_key > ? AND event_key < ? AND substr(body, 1, {len(_UPDATED)}) = ?"
        " ORDER BY event_key"
    )
    return [body for (body,) in db.execute(sql, (event_key(key, after), event_key(key + 1, 0), _UPDATED))]


def messages(
    db: sqlite3.Connection, trace_id: str, goal_id: str | None, before: int | None, limit: int
) -> tuple[list[StoredMessage], bool] | None:
    """See Storage.messages."""
    key = _key(db, trace_id)
    if key is None:
        return None
    of_goal = "" if goal_id is None else " AND m.goal_id = ?4"
    sql = f"{_MESSAGES} WHERE m.trace_key = ?1 AND m.sequence < ?2{of_goal} ORDER BY m.sequence DESC LIMIT ?3"
    values = (key, 2**62 if before is None else before, limit + 1, *([] if goal_id is None else [goal_id]))
    found: list[Any] = []
    room, more = PAGE_BYTES, False
    for row in db.execute(sql, values):
        made = project.events_of(row[4])
        room -= len(row[4] or row[5]) if made is None else made.size
        more = len(found) == limit or (room < 0 and bool(found))
        if more:
            break
        found.append(row)
    return _stored(db, key, found), more


def message(db: sqlite3.Connection, trace_id: str, message_id: str) -> list[StoredMessage] | None:
    """See Storage.message."""
    key = _key(db, trace_id)
    return None if key is None else messages_named(db, key, [message_id])


def gather(db: sqlite3.Connection, trace_id: str, gathering: Gathering[T], patience: Patience) -> T | None:
    """See Storage.gather."""
    key = _key(db, trace_id)
    if key is None:
        return None
    try:
        wanted = next(gathering)
        while True:
            patience.check()
            if isinstance(wanted, str):
                wanted = gathering.send(_content(db, trace_id, wanted))
            else:
                wanted = gathering.send(messages_named(db, key, wanted))
    except StopIteration as over:
        result: T = over.value
        return result


def _key(db: sqlite3.Connection, trace_id: str) -> int | None:
    found = db.execute("SELECT trace_key FROM traces WHERE trace_id = ?", (trace_id,)).fetchone()
    return None if found is None else int(found[0])


def messages_named(db: sqlite3.Connection, key: int, message_ids: Collection[str]) -> list[StoredMessage]:
    """Those of these messages that there are. Values, not json_each: SQLite's JSON cuts a string at NUL."""
    found: list[Any] = []
    names = list(message_ids)
    for start in range(0, len(names), 500):
        some = names[start : start + 500]
        marks = ", ".join("?" * len(some))
        found += db.execute(f"{_MESSAGES} WHERE m.trace_key = ? AND m.message_id IN ({marks})", (key, *some))
    return _stored(db, key, found)


def _content(db: sqlite3.Connection, trace_id: str, sha256: str) -> bytes | None:
    """A content of the trace beside the log; None if it has none of this SHA-256."""
    found = blobs.room(db, trace_id, sha256)
    if found is None or found.row is None:
        return None
    pieces: list[bytes] = []
    while (piece := blobs.piece(db, found.row.blob_key, len(pieces))) is not None:
        pieces.append(piece)
    return b"".join(pieces)


def messages_there(db: sqlite3.Connection, key: int, message_ids: Sequence[str]) -> list[str]:
    """The ids of those of these messages that there are."""
    found: list[str] = []
    for start in range(0, len(message_ids), 500):
        some = message_ids[start : start + 500]
        sql = f"SELECT message_id FROM messages WHERE trace_key = ? AND message_id IN ({', '.join('?' * len(some))})"
        found += [name for (name,) in db.execute(sql, (key, *some))]
    return found


def messages_behind(db: sqlite3.Connection, row: TraceRow) -> list[StoredMessage]:
    """The messages of a trace with updates that are not in their rows yet."""
    # The rows were brought up to date with the last snapshot, so only later updates count
    later = updates(db, row.trace_key, row.last_event_id // project.SNAPSHOT_EVERY * project.SNAPSHOT_EVERY)
    last = {event["message_id"]: event["event_id"] for event in map(object_of, later) if "message_id" in event}
    names = list(last)
    found = [one for one in messages_named(db, row.trace_key, names) if one.as_of is not None]
    return [one for one in found if one.as_of is not None and last[one.message_id] > one.as_of]


# --- questions -------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A question's place in the order of all that are open; as text it is a page token."""

    asked_at: str
    trace_key: int
    event_id: int

    def __str__(self) -> str:
        return f"{self.asked_at}_{self.trace_key}_{self.event_id}"


def _place(token: str | None) -> _Place:
    if token is None:
        return _Place("", 0, 0)
    asked_at, key, event_id = token.split("_")
    return _Place(asked_at, int(key), int(event_id))


def open_inputs(
    db: sqlite3.Connection, limit: int, below: str | None, after: str | None
) -> tuple[list[OpenInput], str | None]:
    """See Storage.open_inputs."""
    only = "" if below is None else f" AND trace_id IN ({COVERED.replace('?', '?1')})"
    behind = "" if after is None else " AND asked_at >= ?3 AND (asked_at, inputs.trace_key, event_id) > (?3, ?4, ?5)"
    sql = (
        "SELECT request_id, asked_at, body, trace_id, task, agent_type, root_trace_id, status,"
        f" inputs.trace_key, event_id FROM inputs JOIN traces USING (trace_key) WHERE state = 'open'{only}{behind}"
        " ORDER BY asked_at, inputs.trace_key, event_id LIMIT ?2"
    )
    found: list[OpenInput] = []
    room, place = PAGE_BYTES, ""
    for row in db.execute(sql, (below, limit + 1, *(() if after is None else _place(after)))):
        room -= len(row[2] or b"") + len(row[4])
        if len(found) == limit or (room < 0 and found):
            return found, place
        found.append(OpenInput(*row[:8]))
        place = str(_Place(row[1], *row[8:]))
    return found, None


def inputs_of(db: sqlite3.Connection, trace_id: str, request_id: str | None, limit: int) -> list[TraceInput]:
    """See Storage.inputs_of."""
    one = "" if request_id is None else " AND request_id = ?3"
    sql = (
        f"SELECT request_id, state, event_id FROM inputs JOIN traces USING (trace_key) WHERE trace_id = ?1{one}"
        " AND (state = 'open' OR event_id >= COALESCE((SELECT event_id FROM inputs JOIN traces USING (trace_key)"
        " WHERE trace_id = ?1 AND state != 'open' ORDER BY event_id DESC LIMIT 1 OFFSET ?2), 0)) ORDER BY event_id DESC"
    )
    others = 2**31 if request_id is not None else max(0, limit - 1)
    values = (trace_id, others) if request_id is None else (trace_id, others, request_id)
    whole = "SELECT body, answer FROM inputs JOIN traces USING (trace_key) WHERE trace_id = ? AND event_id = ?"
    found: list[TraceInput] = []
    room = PAGE_BYTES
    for name, state, event_id in db.execute(sql, values).fetchall():
        body, answer = db.execute(whole, (trace_id, event_id)).fetchone() if room > 0 else (None, None)
        room -= len(body or b"") + len(answer or b"")
        if room < 0 and found:
            body = answer = None
        found.append(TraceInput(name, state, body, answer))
    return found[::-1]


def expired_inputs(db: sqlite3.Connection, steady: float) -> list[tuple[str, str]]:
    """See Storage.expired_inputs."""
    sql = (
        "SELECT trace_id, request_id FROM inputs JOIN traces USING (trace_key)"
        " WHERE state = 'open' AND expires_at <= ? ORDER BY expires_at, inputs.trace_key, event_id"
    )
    return [(str(trace_id), str(request_id)) for trace_id, request_id in db.execute(sql, (steady,))]


def expired_leases(db: sqlite3.Connection, steady: float) -> list[str]:
    """See Storage.expired_leases."""
    sql = f"SELECT trace_id FROM traces WHERE lease_expires_at <= ? AND status IN {OPEN_STATUSES}"
    return [str(trace_id) for (trace_id,) in db.execute(sql, (steady,))]


# --- lists: what they are made of; the lists themselves are in lists.py ---


def lines(db: sqlite3.Connection, trace_ids: Collection[str]) -> list[TraceRow]:
    """See Storage.lines."""
    sql = f"{_ABOVE} SELECT {LIST_COLUMNS} FROM up JOIN traces USING (trace_id)"
    return [listed(values) for values in db.execute(sql, (_ids(trace_ids),))]


def rows(db: sqlite3.Connection, trace_ids: Collection[str], below: str | None) -> list[TraceRow]:
    """See Storage.rows."""
    sql = f"SELECT {LIST_COLUMNS} FROM traces WHERE trace_id IN (SELECT value FROM json_each(?))"
    found = [listed(values) for values in db.execute(sql, (_ids(trace_ids),))]
    if below is not None:
        allowed = {row[0] for row in db.execute(COVERED, (below,))}
        return [row for row in found if row.trace_id in allowed]
    return found


def changes(db: sqlite3.Connection, since: int | None) -> tuple[list[Grown], int]:
    """What has changed since the change number ``since`` (None: nothing is told), and the newest number."""
    *rows, (_, newest, _) = db.execute(_CHANGES, (2**62 if since is None else since,)).fetchall()
    return [Grown(trace_id, last, status, deleted=status == "deleted") for trace_id, last, status in rows], newest


# --- retention, tokens, how it stands --------------------------------------------------------------------------


def long(db: sqlite3.Connection, events: int) -> list[TraceRow]:
    """See Storage.long."""
    # 499 are the words of the index, which holds the long ones only
    sql = f"SELECT {TRACE_COLUMNS} FROM traces WHERE last_event_id - first_event_id >= {events:d}"
    return [TraceRow(*row) for row in db.execute(sql)]


def untouched(db: sqlite3.Connection, before: str, statuses: Sequence[str]) -> list[list[TraceRow]]:
    """See Storage.untouched."""
    marks = ", ".join("?" * len(statuses))
    sql = (
        f"SELECT trace_id FROM traces WHERE created_at < ?1 AND updated_at < ?1 AND status IN ({marks})"
        " ORDER BY created_at, trace_key"
    )
    roots = [str(trace_id) for (trace_id,) in db.execute(sql.replace("?1", "?"), (before, before, *statuses))]
    return [list(rows_below(db, root_id).values()) for root_id in roots]


def event_head(db: sqlite3.Connection, key: int, event_id: int) -> bytes | None:
    """See Storage.event_head."""
    sql = "SELECT substr(body, 1, 512) FROM events WHERE event_key = ?"
    found = db.execute(sql, (event_key(key, event_id),)).fetchone()
    return None if found is None else bytes(found[0])


ANY_NAME = ""  # in ``trimmed``: of an event that had this or that name


def names(db: sqlite3.Connection, key: int, first: int, last: int) -> dict[str, int]:
    """See Storage.names. A body begins with its name: ``{"event":"``, the name and a quote."""
    sql = (
        "SELECT CAST(substr(body, 11, instr(substr(body, 11, 65), X'22') - 1) AS TEXT) AS name,"
        f" MAX({OF_EVENT}) FROM events WHERE event_key BETWEEN ? AND ? GROUP BY name"
    )
    return dict(db.execute(sql, (event_key(key, first), event_key(key, last))).fetchall())


def trimmed(db: sqlite3.Connection, trace_id: str, names: Collection[str]) -> int | None:
    """See Storage.trimmed."""
    sql = "SELECT trace_key, first_event_id FROM traces WHERE trace_id = ?"
    found = db.execute(sql, (trace_id,)).fetchone()
    if found is None:
        return None
    key, first = found
    noted = dict(db.execute("SELECT name, event_id FROM trimmed WHERE trace_key = ?", (key,)).fetchall())
    if not noted:
        return int(first) - 1  # nobody has noted what there was
    return max((noted.get(name, 0) for name in (*names, ANY_NAME)), default=0)


def size(db: sqlite3.Connection, key: int, first: int, last: int) -> int:
    """See Storage.size."""
    sql = (
        "SELECT COALESCE(MAX(end_offset), 0) - COALESCE(MIN(end_offset - length(body)), 0) FROM events"
        " WHERE event_key IN (?, ?)"
    )
    return int(db.execute(sql, (event_key(key, first), event_key(key, last))).fetchone()[0])


def tokens(db: sqlite3.Connection, token_ids: Collection[str] | None, limit: int | None) -> list[Token]:
    """See Storage.tokens."""
    where = "" if token_ids is None else " WHERE token_id IN (SELECT value FROM json_each(?2))"
    sql = f"SELECT {TOKEN_COLUMNS} FROM tokens{where} ORDER BY created_at, token_id LIMIT ?1"
    most = -1 if limit is None else limit
    found = db.execute(sql, (most,) if token_ids is None else (most, _ids(token_ids)))
    return [Token(name, stored, frozenset(scopes.split(",")), *rest) for name, stored, scopes, *rest in found]


def counts(db: sqlite3.Connection, steady: float) -> tuple[dict[str, int], int, int]:
    """How many live traces there are by status, how many leases that are alive, and how many open questions."""
    statuses = dict(db.execute(f"SELECT status, COUNT(*) FROM traces WHERE status IN {LIVE} GROUP BY status"))
    leases = f"SELECT COUNT(*) FROM traces WHERE lease_expires_at > ? AND status IN {OPEN_STATUSES}"
    inputs = "SELECT COUNT(*) FROM inputs WHERE state = 'open'"
    return (
        {status: int(statuses.get(status, 0)) for status in LIVE},
        int(db.execute(leases, (steady,)).fetchone()[0]),
        int(db.execute(inputs).fetchone()[0]),
    )
