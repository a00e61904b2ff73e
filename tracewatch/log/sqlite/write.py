"""What is loaded and written in one transaction of a SQLite log: functions of a ``sqlite3.Connection``.

Rule 1: nothing is decided here: ``load`` gets what was asked for, ``write`` puts what was planned, each table once.
Rule 2: the sums of a trace with its sub-traces are in its row; each difference is added to it and to all rows above.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import orjson

from ..row import TRACE_COLUMNS, TraceRow
from ..storage import Changes, Loaded, Needs, TraceChange
from ..sums import SUM_NAMES, Sums
from ..views import SCOPES
from . import blobs, read
from .keys import OF_EVENT, event_key
from .lists import BELOW
from .read import ANY_NAME, TOKEN_COLUMNS, TREE_COLUMNS

# What sums of a tree are kept up to: far above what is shown (``summed``), and below where whole numbers overflow
MOST = 4 * 10**18
MOST_COST = 1e300
_LIMITS = tuple(MOST_COST if name == "cost" else MOST for name in SUM_NAMES)
_LIMIT = dict(zip(TREE_COLUMNS, _LIMITS, strict=True))
_SEQ = "(SELECT change_seq FROM change_counter)"
MOST_NAMES = 500  # of events that were trimmed are noted for each trace
_CLAIM = {"retention": "retention_until"}  # the key in ``meta``
_NEW = [name for name in TRACE_COLUMNS if name != "trace_key"]
_INSERT_TRACE = (
    f"INSERT INTO traces ({', '.join(_NEW)}, change_seq) VALUES ({', '.join('?' * len(_NEW))}, {_SEQ})"
    " RETURNING trace_key"
)
_GROWS = TREE_COLUMNS  # what is added to, in rows above as well
_SET = (
    *("status", "current_goal_id", "first_event_id", "last_event_id", "log_bytes"),
    *(f"total_{name}" for name in SUM_NAMES),
    *("updated_at", "completed_at", "ended_at", "active_at", "summary", "error", "lease_expires_at"),
)
_VALUES = attrgetter(*_SET)
# What hardly ever changes stands in indexes, which an UPDATE that names it writes again even where it is the same
_SELDOM = ("task", "agent_type", "metadata", "started_at", "session_id", "user_id", "links", "tags", "models")
_SELDOM_VALUES = attrgetter(*_SELDOM)
_UPDATE_SELDOM = f"UPDATE traces SET {', '.join(f'{name} = ?' for name in _SELDOM)} WHERE trace_key = ?"
_MORE = ", ".join(f"{name} = MIN({name} + ?, {_LIMIT[name]})" for name in _GROWS)
_MORE_NUMBERED = ", ".join(f"{name} = MIN({name} + ?{n}, {_LIMIT[name]})" for n, name in enumerate(_GROWS, 2))
_UPDATE_TRACE = (
    f"UPDATE traces SET {', '.join(f'{name} = ?' for name in _SET)}, {_MORE}, change_seq = {_SEQ} WHERE trace_key = ?"
)
_UPDATE_TREE = (
    "WITH RECURSIVE up (trace_id) AS (SELECT ?1 UNION SELECT parent_trace_id FROM traces"
    " JOIN up USING (trace_id) WHERE parent_trace_id IS NOT NULL AND NOT apart)"
    f" UPDATE traces SET {_MORE_NUMBERED},"
    f" change_seq = {_SEQ} WHERE trace_id IN (SELECT trace_id FROM up)"
)
# Of all above a trace that is named by its key; what is above it may have come in this very transaction
_UPDATE_ABOVE = _UPDATE_TREE.replace(
    "SELECT ?1", "SELECT parent_trace_id FROM traces WHERE trace_key = ?1 AND NOT apart"
)
_BELOW_SUMS = f"SELECT {', '.join(_GROWS)} FROM traces WHERE parent_trace_id = ? AND NOT apart"
# Of the trace ``?1`` and those above it, the lowest first, the ones whose sums are at the end of what is kept
_OVERFLOWN = (
    "WITH RECURSIVE up (trace_id, level) AS (SELECT ?1, 1 UNION ALL SELECT parent_trace_id, level + 1 FROM traces"
    " JOIN up USING (trace_id) WHERE parent_trace_id IS NOT NULL AND NOT apart AND level < 10000)"
    f" SELECT trace_id, {', '.join(f'total_{name}' for name in SUM_NAMES)} FROM up JOIN traces USING (trace_id)"
    f" WHERE {' OR '.join(f'{name} >= {_LIMIT[name]}' for name in _GROWS)} ORDER BY level"
)

# Of what names ``?1`` as its parent, below it or not: how many stand below one another
_LEVELS = (
    "WITH RECURSIVE down (trace_id, level) AS (SELECT trace_id, 1 FROM traces WHERE parent_trace_id = ?1 UNION ALL"
    " SELECT t.trace_id, level + 1 FROM traces AS t JOIN down ON t.parent_trace_id = down.trace_id AND NOT t.apart"
    " WHERE level < 1000) SELECT COALESCE(MAX(level), 0) FROM down"
)

# --- loading ---------------------------------------------------------------------------------------------------


def load(db: sqlite3.Connection, needs: Needs, now: Callable[[], float], steady: Callable[[], float]) -> Loaded:
    """What is needed, with the state's parts only where the known head is not the row's."""
    wanted = needs.traces | needs.rows
    rows = read.trace_rows(db, wanted) if not needs.above else read.rows_above(db, wanted)
    loaded = Loaded(needs, now(), steady(), rows)
    for trace_id in needs.trees:
        below = read.rows_below(db, trace_id)
        rows.update(below)
        loaded.trees[trace_id] = list(below)
    _load_parts(db, needs, loaded)
    if needs.messages:
        _load_messages(db, needs, loaded)
    if needs.mentioned:
        _load_mentioned(db, needs, loaded)
    for trace_id in needs.behind & rows.keys():
        loaded.behind[trace_id] = read.messages_behind(db, rows[trace_id])
        if (kept := read.kept_snapshot(db, rows[trace_id])) is not None:
            loaded.kept[trace_id] = kept
    for trace_id, producer in needs.producers:
        loaded.producers[trace_id, producer] = read.last_seq(db, trace_id, producer)
    _load_rest(db, needs, loaded)
    return loaded


def _load_parts(db: sqlite3.Connection, needs: Needs, loaded: Loaded) -> None:
    rows = loaded.rows
    states = set(needs.traces)
    for trace_id in needs.above & rows.keys():
        parent_id = rows[trace_id].above
        if parent_id is not None:
            states.add(parent_id)
    for trace_id in states & rows.keys():
        row, known = rows[trace_id], needs.heads.get(trace_id)
        skip = [event_id for one, event_id in needs.skip if one == trace_id]
        if known is None or known != (row.trace_key, row.last_event_id):
            loaded.parts[trace_id] = read.state_parts(db, row, row.last_event_id, known, skip)


def _by_trace(pairs: Iterable[tuple[str, str]], loaded: Loaded) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for trace_id, message_id in pairs:
        if trace_id in loaded.rows:
            named.setdefault(trace_id, []).append(message_id)
    return named


def _load_mentioned(db: sqlite3.Connection, needs: Needs, loaded: Loaded) -> None:
    for trace_id, names in _by_trace(needs.mentioned, loaded).items():
        found = read.messages_there(db, loaded.rows[trace_id].trace_key, names)
        loaded.mentioned.update((trace_id, name) for name in found)


def _load_messages(db: sqlite3.Connection, needs: Needs, loaded: Loaded) -> None:
    named = _by_trace(needs.messages, loaded)
    for trace_id in named:
        for stored in read.messages_named(db, loaded.rows[trace_id].trace_key, named[trace_id]):
            loaded.messages[trace_id, stored.message_id] = stored


def _load_rest(db: sqlite3.Connection, needs: Needs, loaded: Loaded) -> None:
    rows = loaded.rows
    for trace_id in needs.levels:
        loaded.levels[trace_id] = db.execute(_LEVELS, (trace_id,)).fetchone()[0]
    for trace_id in needs.used_ids:
        sql = "SELECT last_event_id FROM deleted_traces WHERE trace_id = ?"
        for (last,) in db.execute(sql, (trace_id,)):
            loaded.used_ids[trace_id] = last
    for trace_id, request_id in needs.questions:
        sql = "SELECT expires_at FROM inputs JOIN traces USING (trace_key) WHERE trace_id = ? AND request_id = ?"
        for (expires_at,) in db.execute(sql, (trace_id, request_id)):
            loaded.questions[trace_id, request_id] = expires_at
    for trace_id in needs.sequences & rows.keys():
        sql = "SELECT COALESCE(MAX(sequence), 0) FROM messages WHERE trace_key = ?"
        loaded.sequences[trace_id] = db.execute(sql, (rows[trace_id].trace_key,)).fetchone()[0]
    for trace_id, first, last in needs.events:
        if trace_id in rows:
            sql = f"SELECT {OF_EVENT}, body FROM events WHERE event_key BETWEEN ? AND ?"
            keys = [event_key(rows[trace_id].trace_key, one) for one in (first, last)]
            loaded.events.setdefault(trace_id, {}).update(db.execute(sql, keys))
    for trace_id, event_id in needs.snapshots:
        sql = "SELECT 1 FROM snapshots WHERE trace_key = ? AND event_id = ?"
        if trace_id in rows and db.execute(sql, (rows[trace_id].trace_key, event_id)).fetchone():
            loaded.snapshots.add((trace_id, event_id))
    if needs.blobs:
        loaded.blobs = blobs.load(db, needs.blobs)
    if needs.tokens:
        loaded.tokens = {token.token_id: token for token in read.tokens(db, needs.tokens, None)}
    for name in needs.claims:
        for (until,) in db.execute("SELECT value FROM meta WHERE key = ?", (_CLAIM[name],)):
            loaded.claims[name] = float(until)


# --- writing ---------------------------------------------------------------------------------------------------


def write(db: sqlite3.Connection, changes: Changes) -> dict[str, int]:
    """Write what was planned; returns the keys of new traces."""
    if changes.traces or changes.deleted:
        db.execute("UPDATE change_counter SET change_seq = change_seq + 1")
    keys = {}
    for change in changes.traces:
        if change.before is None:
            keys[change.after.trace_id] = _insert(db, change)
    _write_rows(db, changes.traces, keys)
    _write_traces(db, changes, keys)
    if changes.deleted:
        _delete(db, changes.deleted)
    for absent in changes.absent:
        db.execute(_UPDATE_TREE, (absent.trace_id, *absent.sums))
    for token in changes.tokens:
        scopes = ",".join(sorted(token.scopes, key=SCOPES.index))
        values = (token.token_id, token.hash, scopes, token.trace_id, token.label, token.created_at, token.expires_at)
        db.execute(f"INSERT INTO tokens ({TOKEN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", values)
    for token_id, when in changes.revoked.items():
        db.execute("UPDATE tokens SET revoked_at = ? WHERE token_id = ?", (when, token_id))
    for name, until in changes.claims.items():
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (str(until), _CLAIM[name]))
    if changes.probe:
        db.execute("UPDATE meta SET value = value WHERE key = 'epoch'")
    return keys


def _insert(db: sqlite3.Connection, change: TraceChange) -> int:
    """A new trace's row. What is below it already, having been restored before it, counts in its sums and above."""
    row = change.after
    if change.adopts:
        db.execute("UPDATE traces SET apart = 0 WHERE parent_trace_id = ? AND apart", (row.trace_id,))
    values = [0 if name.startswith(("total_", "tree_")) else getattr(row, name) for name in _NEW]
    (key,) = db.execute(_INSERT_TRACE, values).fetchone()
    db.execute("DELETE FROM deleted_traces WHERE trace_id = ?", (row.trace_id,))
    below = _sums_below(db, row.trace_id)
    if any(below):
        db.execute(_UPDATE_TREE, (row.trace_id, *below))
    return int(key)


def _sums_below(db: sqlite3.Connection, trace_id: str) -> Sums:
    """The sums of all that is below a trace. Not SUM(), which fails where whole numbers overflow."""
    sums = Sums()
    for one in db.execute(_BELOW_SUMS, (trace_id,)):
        sums = sums.plus(Sums(*one))
    return _kept(sums)


def _kept(sums: Sums) -> Sums:
    return Sums(*(min(one, most) for one, most in zip(sums, _LIMITS, strict=True)))  # type: ignore[arg-type]


def _write_rows(db: sqlite3.Connection, traces: Iterable[TraceChange], keys: dict[str, int]) -> None:
    """The rows of events and of what they tell, of all traces."""
    events: list[Any] = []
    messages: list[Any] = []
    bodies: list[Any] = []
    regrouped: list[Any] = []
    inputs: list[Any] = []
    closed: list[Any] = []
    snapshots: list[Any] = []
    producers: list[Any] = []
    for change in traces:
        key = keys[change.after.trace_id] if change.before is None else change.before.trace_key
        events += [(event_key(key, event_id), end_offset, body) for event_id, end_offset, body in change.events]
        messages += [(key, *row) for row in change.messages]
        bodies += [(as_of, body, key, message_id) for message_id, as_of, body in change.bodies]
        regrouped += [(goal_id, key, message_id) for message_id, goal_id in change.regrouped.items()]
        inputs += [(key, *row) for row in change.inputs]
        closed += [(state, answer, key, request_id) for request_id, state, answer in change.closed_inputs]
        snapshots += [(key, *row) for row in change.snapshots]
        producers += [(key, *row) for row in change.producers.items()]
    for sql, rows in (
        ("INSERT INTO events VALUES (?, ?, ?)", events),
        (
            "INSERT INTO messages (trace_key, sequence, message_id, goal_id, event_id, as_of, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            messages,
        ),
        ("UPDATE messages SET as_of = ?, body = ? WHERE trace_key = ? AND message_id = ?", bodies),
        ("UPDATE messages SET goal_id = ? WHERE trace_key = ? AND message_id = ?", regrouped),
        ("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", inputs),
        ("UPDATE inputs SET state = ?, body = NULL, answer = ? WHERE trace_key = ? AND request_id = ?", closed),
        ("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", snapshots),
        ("INSERT OR REPLACE INTO producers VALUES (?, ?, ?)", producers),
    ):
        if rows:
            db.executemany(sql, rows)


def _write_traces(db: sqlite3.Connection, changes: Changes, keys: dict[str, int]) -> None:
    rows, trees = [], []
    for change in changes.traces:
        row, before = change.after, change.before
        key = keys[row.trace_id] if before is None else before.trace_key
        difference = change.difference
        rows.append((*_VALUES(row), *difference, key))
        if (seldom := _SELDOM_VALUES(row)) != (None if before is None else _SELDOM_VALUES(before)):
            _write_seldom(db, key, seldom, before)
        if before is not None and row.moved:
            _move(db, row, before)
        if before is not None and row.first_event_id != before.first_event_id:
            db.execute("INSERT OR REPLACE INTO leftovers VALUES (?, ?)", (key, row.first_event_id - 1))
            _note_trimmed(db, key, before.first_event_id, row.first_event_id, change.trimmed)
        if change.blobs:
            blobs.name(db, key, change.blobs)
        if row.parent_trace_id is not None and any(difference):
            trees.append((key, *difference))
    if rows:
        db.executemany(_UPDATE_TRACE, rows)
    if trees:
        db.executemany(_UPDATE_ABOVE, trees)


def _move(db: sqlite3.Connection, row: TraceRow, before: TraceRow) -> None:
    """Put a trace below its new parent, if that has changed, and its sums with it."""
    place = (row.parent_trace_id, row.parent_goal_id)
    if place == (before.parent_trace_id, before.parent_goal_id) and before.moved:
        return

    def settle() -> None:
        sql = "UPDATE traces SET parent_trace_id = ?, parent_goal_id = ?, apart = 0, moved = 1, cover_key = ?"
        db.execute(f"{sql} WHERE trace_key = ?", (*place, row.cover_key, before.trace_key))

    sums = _kept(before.tree())
    _take_off(db, before.above, sums, settle)
    db.execute(_UPDATE_TREE, (row.parent_trace_id, *sums))
    sql = f"UPDATE traces SET root_trace_id = ?, change_seq = {_SEQ} WHERE trace_id IN ({BELOW})"
    db.execute(sql, (row.root_trace_id, row.trace_id))


def _take_off(db: sqlite3.Connection, above: str | None, sums: Sums, then: Callable[[], None]) -> None:
    """What stood below ``above`` leaves its sums, and those of all above it; ``then`` changes its own rows."""
    overflown = [] if above is None else db.execute(_OVERFLOWN, (above,)).fetchall()
    if above is not None:
        db.execute(_UPDATE_TREE, (above, *Sums().minus(sums)))
    then()
    for trace_id, *own in overflown:  # nothing can be taken off such a sum: it is made anew
        anew = _kept(Sums(*own).plus(_sums_below(db, trace_id)))
        sql = f"UPDATE traces SET {', '.join(f'{name} = ?' for name in _GROWS)} WHERE trace_id = ?"
        db.execute(sql, (*anew, trace_id))


def _note_trimmed(db: sqlite3.Connection, key: int, before: int, first: int, names: dict[str, int]) -> None:
    """Note the last event of each name that was trimmed. ``before``, ``first``: the log's first events."""
    (there,) = db.execute("SELECT COUNT(*) FROM trimmed WHERE trace_key = ?", (key,)).fetchone()
    if not names or there + len(names) > MOST_NAMES:
        names = {ANY_NAME: first - 1}
    elif not there and before > 1:
        names = {**names, ANY_NAME: before - 1}  # what went before anybody noted it, or was never there
    db.executemany("INSERT OR REPLACE INTO trimmed VALUES (?, ?, ?)", [(key, *one) for one in names.items()])


def renew_row(db: sqlite3.Connection, before: TraceRow, row: TraceRow) -> None:
    """Write a row whose sums over the tree, but for the cost that is known, do not change."""
    db.execute(_UPDATE_TRACE, (*_VALUES(row), *Sums(), row.trace_key))
    _write_seldom(db, row.trace_key, _SELDOM_VALUES(row), before)


def _write_seldom(db: sqlite3.Connection, key: int, values: tuple[Any, ...], before: TraceRow | None) -> None:
    """What hardly ever changes, and the rows by which traces are found by it."""
    if before is not None:
        db.execute(_UPDATE_SELDOM, (*values, key))
        db.execute("DELETE FROM trace_words WHERE trace_key = ?", (key,))
    tags, models = orjson.loads(values[-2]), orjson.loads(values[-1])
    words = [("tag", tag, key) for tag in dict.fromkeys(tags)] + [("model", model, key) for model in models]
    if words:
        sql = "INSERT OR REPLACE INTO trace_words SELECT ?, ?, began, trace_key FROM traces WHERE trace_key = ?"
        db.executemany(sql, words)


def _delete(db: sqlite3.Connection, gone: list[TraceRow]) -> None:
    """Remove the rows by which these traces are found. What else there is of them follows in pieces."""
    keys = [(row.trace_key,) for row in gone]

    def remove() -> None:
        for table in ("producers", "inputs", "trimmed", "trace_words", "traces"):
            db.executemany(f"DELETE FROM {table} WHERE trace_key = ?", keys)

    _take_off(db, gone[0].above, _kept(gone[0].tree()), remove)
    db.executemany("INSERT OR REPLACE INTO leftovers VALUES (?, NULL)", keys)
    marks = [(row.trace_id, row.last_event_id) for row in gone]
    db.executemany(f"INSERT OR REPLACE INTO deleted_traces VALUES (?, ?, {_SEQ})", marks)
