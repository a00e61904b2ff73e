"""Lists of traces in a SQLite log: by which index, from which place, and what is looked at on the way.

Rule 1: a list is read along an index that has its order, from the place at which the page before ended. SQLite sorts
        nothing.
Rule 2: each filter has an index. Of several, the one that the fewest traces pass leads; the others are tests of the
        traces on its way.
Rule 3: where no index has what leads in the order of the list and fewer than FEW pass it, their places are sorted
        here. Where more do, the list goes along all traces in its order, which then comes to one that passes soon.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any

import orjson

from ...model.filter import ANY, Condition
from ...model.times import format_time
from ..patience import Patience
from ..row import READ_BYTES, TraceRow
from ..row import TRACE_COLUMNS as COLUMNS
from ..views import ListPlace, TraceQuery, place_of, says, says_error

FEW = 1000  # traces: their places are read and sorted
COUNTED = 5_000  # traces that pass a filter: beyond that they are many
# Below three characters the trigram index can't help: then only as many of the newest traces are looked through
SHORT_SEARCH_ROWS = 10_000
# Of a text to look for, the index is asked for so many characters. It compares their places in each trace, and nothing
# can stop it meanwhile.
INDEXED = 32

# What is long is not read to its end, and whether the metadata is too long to be read stands behind the row
_SHORT = {
    "spec": "''",
    "metadata": f"CASE WHEN length(metadata) > {READ_BYTES} THEN '{{}}' ELSE metadata END",
    "summary": f"substr(summary, 1, {READ_BYTES + 1})",
    "error": f"substr(error, 1, {READ_BYTES + 1})",
}
LIST_COLUMNS = ", ".join([*(_SHORT.get(name, name) for name in COLUMNS), f"length(metadata) > {READ_BYTES}"])
# ``?`` and all below it
BELOW = (
    "WITH RECURSIVE down (trace_id) AS (SELECT ? UNION SELECT t.trace_id FROM traces AS t"
    " JOIN down ON t.parent_trace_id = down.trace_id AND NOT t.apart) SELECT trace_id FROM down"
)
# ``?`` and all that a token of it alone covers: what was below it when it came
COVERED = (
    "WITH RECURSIVE down (trace_id) AS (SELECT ? UNION SELECT t.trace_id FROM traces AS t"
    " JOIN down ON t.parent_trace_id = down.trace_id AND NOT t.apart AND NOT t.moved"
    " UNION SELECT t.trace_id FROM down JOIN traces AS p USING (trace_id)"
    " JOIN traces AS t ON t.cover_key = p.trace_key AND t.moved) SELECT trace_id FROM down"
)
_COLUMN = {"started": "began", "activity": "active_at"}  # by which a list is ordered, then by the key
_ALL = {
    "started": "traces INDEXED BY traces_by_start",
    "activity": "traces INDEXED BY traces_by_activity",
    "created": "traces",
}


def register(db: sqlite3.Connection) -> None:
    """Let a connection's statements look into texts and errors."""
    db.create_function("says", -1, _says, deterministic=True)
    db.create_function("says_error", 2, _says_error, deterministic=True)


def _says(text: str, *values: bytes | None) -> bool:
    return says(text, *((value or b"").decode("utf-8", "replace") for value in values))


def _says_error(text: str, error: bytes | None) -> bool:
    if error is None:  # SQLite tests in what order it likes
        return False
    try:
        return says_error(text, orjson.loads(error))
    except orjson.JSONDecodeError:
        return says_error(text, error.decode("utf-8", "replace"))


# --- what leads ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IndexedFilter:
    """One filter: the traces that pass it by an index, and the same as a test of a row of ``traces``."""

    source: str  # FROM
    where: str
    parts: tuple[tuple[Any, ...], ...]  # values of ``where``; several: what passes with any of them
    test: str
    values: tuple[Any, ...]  # of the test
    order: str = "started"  # in which the index has them; "": in none
    column: str = "began"  # of the source


def filters(query: TraceQuery) -> list[IndexedFilter]:
    """The filters of a query that have an index, but for the text that is looked for."""
    found: list[IndexedFilter] = []
    if query.status:
        marks = ", ".join("?" * len(query.status))
        parts = tuple((status,) for status in dict.fromkeys(query.status))
        source = "traces INDEXED BY traces_by_status"
        found.append(IndexedFilter(source, "status = ?", parts, f"status IN ({marks})", query.status))
    for column, index, value in (
        ("agent_type", "by_agent_type", query.agent_type),
        ("root_trace_id", "by_root", query.root_trace_id),
        ("session_id", "by_session", query.session_id),
        ("user_id", "by_user", query.user_id),
        ("parent_trace_id", "by_parent_start", query.parent_trace_id),
    ):
        if value is None:
            continue
        order = "started"
        if column == "parent_trace_id" and query.order == "created":
            order, index = "created", "by_parent"
        test = f"{column} = ?"
        found.append(IndexedFilter(f"traces INDEXED BY traces_{index}", test, ((value,),), test, (value,), order))
    words = [*(("tag", tag) for tag in query.tags), *([("model", query.model)] if query.model is not None else [])]
    for word in words:
        test = (
            "EXISTS (SELECT 1 FROM trace_words AS w WHERE w.kind = ? AND w.word = ? AND w.began = traces.began"
            " AND w.trace_key = traces.trace_key)"
        )
        found.append(
            IndexedFilter("trace_words", "kind = ? AND word = ?", (word,), test, word, column="trace_words.began")
        )
    found += [one for condition in query.conditions if (one := _indexed(condition)) is not None]
    if query.error is not None:
        test = "error IS NOT NULL"
        found.append(IndexedFilter("traces INDEXED BY traces_with_error", test, ((),), test, ()))
    if query.below is not None:
        test = f"trace_id IN ({COVERED})"
        found.append(IndexedFilter("traces", test, ((query.below,),), test, (query.below,), ""))
    return found


def _indexed(condition: Condition) -> IndexedFilter | None:
    """One word of a filter as a filter that has an index; None where it has none."""
    if condition.negative or condition.field not in ("status", "session", "user", "tag"):
        return None
    test, values = condition_test(condition, 0.0)
    parts = tuple((value,) for value in dict.fromkeys(condition.values))
    if condition.field != "tag":
        column = _NAMES[condition.field]
        source = f"traces INDEXED BY traces_by_{condition.field}"
        return IndexedFilter(source, f"{column} = ?", parts, test, tuple(values))
    if len(parts) > 1:  # a trace may have several of them, and would be listed as often
        return None
    where = "kind = 'tag' AND word = ?"
    return IndexedFilter("trace_words", where, parts, test, tuple(values), column="trace_words.began")


def _spans(query: TraceQuery, column: str) -> tuple[str, list[Any]]:
    """The words of a filter that say when a trace began, as bounds of an index that has the traces in this order."""
    if query.order != "started" or not column:
        return "", []
    tests = [
        condition_test(one, time.time())
        for one in query.conditions
        if one.field in ("since", "until", "age") and not one.negative
    ]
    where = "".join(f" AND {test[len('COALESCE(') : -len(', 0)')]}" for test, _ in tests)
    return where.replace("began", column), [value for _, values in tests for value in values]


def _tests(query: TraceQuery, others: Iterable[IndexedFilter]) -> tuple[str, list[Any]]:
    """What a row of ``traces`` is tested for on the way."""
    tests, values = [], list[Any]()
    for one in others:
        tests.append(one.test)
        values += one.values
    if query.error:
        tests.append("says_error(?, CAST(error AS BLOB))")
        values.append(query.error)
    for condition in query.conditions:
        test, given = condition_test(condition, time.time())
        tests.append(test)
        values += given
    if text_of(query):
        tests.append("says(?, CAST(trace_id AS BLOB), CAST(task AS BLOB), CAST(agent_type AS BLOB))")
        values.append(query.q)
    return "".join(f" AND {test}" for test in tests), values


_END = "CASE WHEN ended_at IS NOT NULL THEN ended_at WHEN status IN ('running', 'waiting', 'idle') THEN ? END"
_DURATION = f"(julianday({_END}) - julianday(started_at)) * 86400"
_NUMBERS = {
    "cost": "CASE WHEN tree_costed THEN tree_cost END",
    "tokens": "tree_tokens",
    "messages": "tree_messages",
    "events": "last_event_id",
}
_PARTS = {"agent": "agent_type", "id": "trace_id", "task": "task"}
_NAMES = {"session": "session_id", "user": "user_id", "status": "status"}
_WORD = (
    "EXISTS (SELECT 1 FROM trace_words AS w WHERE w.kind = '{}' AND {} AND w.began = traces.began"
    " AND w.trace_key = traces.trace_key)"
)


def condition_test(condition: Condition, now: float) -> tuple[str, list[Any]]:
    """One word of a filter as a test of a row of ``traces``. ``now``: Unix time in seconds."""
    test, values = _positive_test(condition, now)
    return (f"NOT COALESCE({test}, 0)" if condition.negative else f"COALESCE({test}, 0)"), values


def _positive_test(condition: Condition, now: float) -> tuple[str, list[Any]]:
    field, values = condition.field, list[Any](condition.values)
    marks = ", ".join("?" * len(values))
    compare = "=" if condition.compare == ":" else condition.compare
    if field in _NAMES:
        return f"{_NAMES[field]} IN ({marks})", values
    if field == "tag":
        return _WORD.format("tag", f"w.word IN ({marks})"), values
    if field == "model":
        return _WORD.format("model", _any("says(?, CAST(w.word AS BLOB))", values)), values
    if field in _PARTS:
        return _any(f"says(?, CAST({_PARTS[field]} AS BLOB))", values), values
    if field == "error":
        sought = ["" if value == ANY else value for value in values]
        return f"(error IS NOT NULL AND {_any('says_error(?, CAST(error AS BLOB))', values)})", sought
    number = float(values[0])
    if field in _NUMBERS:
        return f"{_NUMBERS[field]} {compare} ?", [number]
    if field == "took":
        return f"{_DURATION} {compare} ?", [format_time(now), number]
    if field == "age":
        turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(compare, compare)
        return f"began {turned} ?", [format_time(max(0.0, now - number))]
    return f"began {'>=' if field == 'since' else '<'} ?", [format_time(number)]


def _any(test: str, values: Sequence[Any]) -> str:
    return f"({' OR '.join([test] * len(values))})"


def text_of(query: TraceQuery) -> str:
    """The text to look for; "" for none."""
    return query.q.replace("\0", "") if query.q else ""  # NUL ends a query of the index


# --- the few, sorted here --------------------------------------------------------------------------------------


def few(db: sqlite3.Connection, query: TraceQuery) -> list[int] | None:
    """The keys of what passes one filter, if fewer than FEW do."""
    for one in filters(query):
        found: list[int] = []
        for part in one.parts:
            sql = f"SELECT trace_key FROM {one.source} WHERE {one.where} LIMIT ?"
            found += [key for (key,) in db.execute(sql, (*part, FEW - len(found)))]
            if len(found) >= FEW:
                break
        else:
            return found
    return None


def searched(db: sqlite3.Connection, text: str, after: int, before: int, most: int) -> list[int]:
    """The keys between these two of what the index of texts finds, at most so many."""
    # With the bounds of the slice, as nothing can stop the index once it has been asked
    sql = "SELECT rowid FROM traces_text WHERE traces_text MATCH ? AND rowid > ? AND rowid < ? LIMIT ?"
    needle = '"' + text[:INDEXED].replace('"', '""') + '"'
    return [key for (key,) in db.execute(sql, (needle, after, before, most))]


def newest_key(db: sqlite3.Connection) -> int:
    """The highest trace_key."""
    return int(db.execute("SELECT COALESCE(MAX(trace_key), 0) FROM traces").fetchone()[0])


def _sorted(db: sqlite3.Connection, query: TraceQuery, keys: Sequence[int], begin: ListPlace | None) -> list[int]:
    """Those of the keys that pass all filters and stand behind ``begin``, in the order of the list."""
    column = _COLUMN.get(query.order, "''")
    tests, values = _tests(query, filters(query))
    sql = f"SELECT {column}, trace_key FROM traces WHERE trace_key IN (SELECT value FROM json_each(?)){tests}"
    found = [(_text(at), key) for at, key in db.execute(sql, (orjson.dumps(keys).decode(), *values))]
    if begin is not None:
        found = [one for one in found if one < (begin.at, begin.trace_key)]
    return [key for _, key in sorted(found, reverse=True)]


# --- along an index --------------------------------------------------------------------------------------------


def _along(
    db: sqlite3.Connection, query: TraceQuery, begin: ListPlace | None, end: ListPlace | None, limit: int
) -> Iterable[Sequence[Any]]:
    """Rows of ``LIST_COLUMNS`` behind ``begin``, up to ``end`` and with it, in the order of the list."""
    leads = filters(query)
    lead = _shortest(db, [one for one in leads if one.order == query.order])
    source, where, column = _ALL[query.order], "1", _COLUMN.get(query.order, "")
    parts: tuple[tuple[Any, ...], ...] = ((),)
    if lead is not None:
        source, where, parts = lead.source, lead.where, lead.parts
        column = lead.column if column else ""
        source += " CROSS JOIN traces USING (trace_key)" if source == "trace_words" else ""
    tests, values = _tests(query, (one for one in leads if one is not lead))
    between, bounds = _between(column, begin, end)
    spans, given = _spans(query, column)
    between, bounds = between + spans, bounds + given
    order = f"{column} DESC, trace_key DESC" if column else "trace_key DESC"
    sql = f"SELECT {LIST_COLUMNS} FROM {source} WHERE {where}{between}{tests} ORDER BY {order} LIMIT ?"
    found = [db.execute(sql, (*part, *bounds, *values, limit)) for part in parts]
    return found[0] if len(found) == 1 else merge(*found, key=_BY[query.order], reverse=True)


def _shortest(db: sqlite3.Connection, leads: Sequence[IndexedFilter]) -> IndexedFilter | None:
    """The filter that the fewest traces pass."""
    if len(leads) < 2:
        return leads[0] if leads else None
    counts: list[int] = []
    for one in leads:
        sql = f"SELECT COUNT(*) FROM (SELECT 1 FROM {one.source} WHERE {one.where} LIMIT {COUNTED})"
        counts.append(sum(db.execute(sql, part).fetchone()[0] for part in one.parts))
    return leads[counts.index(min(counts))]


def _between(column: str, begin: ListPlace | None, end: ListPlace | None) -> tuple[str, list[Any]]:
    where, values = "", list[Any]()
    for place, sign in ((begin, "<"), (end, ">=")):
        if place is None:
            continue
        if column:
            where += f" AND {column} {sign[0]}= ? AND ({column}, trace_key) {sign} (?, ?)"
            values += [place.at, place.at, place.trace_key]
        else:
            where += f" AND trace_key {sign} ?"
            values.append(place.trace_key)
    return where, values


_START, _MADE, _ACTIVE = (COLUMNS.index(name) for name in ("started_at", "created_at", "active_at"))
_BY = {
    "started": lambda row: (min(_text(row[_START]), _text(row[_MADE])), row[0]),
    "activity": lambda row: (_text(row[_ACTIVE]), row[0]),
    "created": lambda row: row[0],
}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "9" if isinstance(value, bytes) else ""  # as SQLite sorts them


# --- pages -----------------------------------------------------------------------------------------------------


def listed(values: Sequence[Any]) -> TraceRow:
    """The row of ``LIST_COLUMNS``."""
    return TraceRow(*values[: len(COLUMNS)]).for_list(bool(values[len(COLUMNS)]))


def begin_of(db: sqlite3.Connection, query: TraceQuery) -> ListPlace | None:
    """Where the list goes on. The token of a version before names a key: it goes on behind that trace's place."""
    place = None if query.before is None else place_of(query.before)
    if place is None or place.order:
        return place
    column = _COLUMN.get(query.order, "''")
    sql = f"SELECT {column} FROM traces WHERE trace_key <= ? ORDER BY trace_key DESC LIMIT 1"
    found = db.execute(sql, (place.trace_key,)).fetchone()
    return ListPlace(query.order, "" if found is None else _text(found[0]), place.trace_key)


def place_after(db: sqlite3.Connection, query: TraceQuery, begin: ListPlace | None, traces: int) -> ListPlace | None:
    """The place so many traces behind ``begin``, whatever passes the filters; None where there are not so many."""
    column = _COLUMN[query.order]
    between, bounds = _between(column, begin, None)
    sql = f"SELECT {column}, trace_key FROM {_ALL[query.order]} WHERE 1{between}"
    found = db.execute(f"{sql} ORDER BY {column} DESC, trace_key DESC LIMIT 1 OFFSET ?", (*bounds, traces)).fetchone()
    return None if found is None else ListPlace(query.order, _text(found[0]), found[1])


def page(
    db: sqlite3.Connection,
    query: TraceQuery,
    patience: Patience,
    *,
    keys: Sequence[int] | None = None,
    begin: ListPlace | None = None,
    end: ListPlace | None = None,
) -> tuple[list[TraceRow], bool]:
    """The traces of a query, and whether there are more. Raises TooLong.

    ``keys``: what passes one filter or is found by the text, where that are few. ``begin``, ``end``: only what stands
    between these places.
    """
    if keys is None and not (begin or end):
        begin = begin_of(db, query)
        many = filters(query)
        if len(many) > 1 or (many and many[0].order != query.order):
            keys = few(db, query)
    if keys is None:
        rows = _along(db, query, begin, end, query.limit + 1)
    else:
        sql = f"SELECT {LIST_COLUMNS} FROM traces WHERE trace_key = ?"
        behind = _sorted(db, query, keys, begin or begin_of(db, query))
        rows = (row for key in behind for row in db.execute(sql, (key,)))
    found: list[TraceRow] = []
    room = query.max_bytes
    for row in rows:
        patience.check()
        if len(found) == query.limit:
            return found, True
        one = listed(row)
        room -= one.listed_bytes()
        if room < 0 and found:
            return found, True
        found.append(one)
    return found, False
