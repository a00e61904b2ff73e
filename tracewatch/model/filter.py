"""The filter language of lists: ``status:failed agent:coder took>20s -tag:nightly "free text"``.

The page has the same parser (``web/src/log/filter.ts``); ``tests/model/filters.json`` holds both to it.

Rule 1: a trace has to pass every word. Behind one colon several values may stand, with commas: one of them will do.
        ``-`` before a word: it must not pass it.
Rule 2: a word is a field, or text to look for. One that looks like a field and is none, or has a value that means
        nothing, is a fault with its place: never text in silence. In quotes everything is text.
Rule 3: names of tags, sessions and users are whole. Agents, models, ids, tasks and errors are found by a part, in any
        case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .canonical import STATUSES
from .error import error_line
from .terms import Term, words_of
from .times import parse_time

Compare = Literal[":", "=", ">", "<", ">=", "<="]
SYNONYMS = {
    "open": ("running", "waiting", "idle"),
    "ended": ("completed", "failed", "stopped"),
    "done": ("completed",),
    "error": ("failed", "lost"),
}
WHOLE = ("tag", "session", "user")
PARTS = ("agent", "model", "error", "id", "task")
AMOUNTS = ("cost", "tokens", "messages", "events")
SPANS = ("took", "age")  # in seconds
TIMES = ("since", "until")
FIELDS = ("status", *WHOLE, *PARTS, *SPANS, *AMOUNTS, *TIMES)
ANY = "*"
MOST_WORDS = 64

_WORD = re.compile(r'(-?)(?:([A-Za-z_]+)(:|>=|<=|>|<|=))?((?:"[^"]*"?|[^\s"])*)')
_VALUE = re.compile(r'(?:"[^"]*"?|[^",])+')
_AMOUNT = re.compile(r"\$?(\d+(?:\.\d+)?|\.\d+)([km]?)", re.IGNORECASE)
_SPAN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d|w)?", re.IGNORECASE)
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)?")
_TIMES_OF = {"k": 1e3, "m": 1e6, "": 1.0}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True, slots=True)
class Condition:
    """One field of a filter. ``values``: texts, or of numbers, spans (s) and times (Unix time in s) one number."""

    field: str
    compare: Compare
    values: tuple[str, ...] | tuple[float]
    negative: bool = False

    def fits(self, trace: Mapping[str, Any], now: float) -> bool:
        """Whether a trace's summary passes it. ``now``: Unix time in seconds. Rather too much where it was cut."""
        passes = _TESTS[self.field](self, trace, now)
        if self.field in trace.get("cut", ()) and not passes:
            return True
        return passes is not self.negative

    def holds(self, number: float | None) -> bool:
        """Whether a number compares so. One that is not known does not."""
        if number is None:
            return False
        limit = float(self.values[0])
        match self.compare:
            case ">":
                return number > limit
            case "<":
                return number < limit
            case ">=":
                return number >= limit
            case "<=":
                return number <= limit
        return number == limit


@dataclass(frozen=True, slots=True)
class Sought:
    """Text to look for. ``prefix``: its last word may go on."""

    text: str
    prefix: bool = False
    negative: bool = False

    def term(self) -> Term:
        """As what an index is asked for."""
        return Term(words_of(self.text), self.prefix, self.negative)


@dataclass(frozen=True, slots=True)
class Misunderstood:
    """A word that is not understood: from where to where it stands, in characters, and why."""

    at: int
    end: int
    message: str


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """A filter as it was understood."""

    conditions: tuple[Condition, ...] = ()
    sought: tuple[Sought, ...] = ()
    faults: tuple[Misunderstood, ...] = ()

    @property
    def terms(self) -> tuple[Term, ...]:
        """The texts, as what an index is asked for."""
        return tuple(one.term() for one in self.sought)


def parse_filter(text: str) -> TraceFilter:
    """What a filter's text says. It never raises: what is not understood is among ``faults``.

    >>> parse_filter("status:failed took>20s login").sought
    (Sought(text='login', prefix=False, negative=False),)
    """
    conditions: list[Condition] = []
    sought: list[Sought] = []
    faults: list[Misunderstood] = []
    words = [match for match in _WORD.finditer(text) if match[0]]
    for match in words[:MOST_WORDS]:
        negative, field, compare, rest = bool(match[1]), match[2], match[3], match[4]
        try:
            if field is None:
                sought.append(_sought(rest, negative))
            else:
                conditions.append(_condition(field.lower(), compare, rest, negative))
        except ValueError as error:
            faults.append(Misunderstood(match.start(), match.end(), str(error)))
    if len(words) > MOST_WORDS:
        at = words[MOST_WORDS].start()
        faults.append(Misunderstood(at, len(text), f"more than {MOST_WORDS} words"))
    return TraceFilter(tuple(conditions), tuple(sought), tuple(faults))


def _sought(rest: str, negative: bool) -> Sought:
    prefix = rest.endswith("*") and len(rest) > 1
    text = rest.replace('"', "").rstrip("*") if prefix else rest.replace('"', "")
    if not words_of(text):
        raise ValueError("there is no letter and no digit in it to look for")
    return Sought(text, prefix, negative)


def _condition(field: str, compare: Any, rest: str, negative: bool) -> Condition:
    if field not in FIELDS:
        raise ValueError(
            f"{field} is no field; fields are {', '.join(FIELDS)}. Text with a sign like this needs quotes"
        )
    values = tuple(value for one in _VALUE.findall(rest) if (value := one.replace('"', "").strip()))
    if not values:
        raise ValueError(f"{field} has no value")
    if field in AMOUNTS or field in SPANS:
        return Condition(field, compare, (_number(field, values),), negative)
    if compare not in (":", "="):
        raise ValueError(f"{field} can't be compared with {compare}, only given with a colon")
    if field in TIMES:
        return Condition(field, ":", (_time(field, values),), negative)
    if field == "status":
        values = tuple(dict.fromkeys(name for value in values for name in _statuses(value)))
    return Condition(field, ":", values, negative)


def _number(field: str, values: tuple[str, ...]) -> float:
    pattern, example = (_AMOUNT, "1.5 or 10k") if field in AMOUNTS else (_SPAN, "20s, 5m, 2h or 3d")
    match = pattern.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        raise ValueError(f"{field} wants a number such as {example}")
    unit = (match[2] or "").lower()
    return float(match[1]) * (_TIMES_OF[unit] if field in AMOUNTS else _SECONDS[unit or "s"])


def _time(field: str, values: tuple[str, ...]) -> float:
    message = f"{field} wants a day or a time in UTC, such as 2026-11-01 or 2026-11-01T08:30"
    if len(values) != 1 or not _TIME.fullmatch(values[0]):
        raise ValueError(message)
    day, _, clock = values[0].replace(" ", "T").partition("T")
    clock = clock or "00:00:00Z"
    if re.fullmatch(r"\d\d:\d\d(?:Z|[+-]\d\d:\d\d)?", clock):
        clock = f"{clock[:5]}:00{clock[5:]}"
    if not re.search(r"(?:Z|[+-]\d\d:\d\d)$", clock):
        clock += "Z"
    try:
        return parse_time(f"{day}T{clock}")
    except ValueError:
        raise ValueError(message) from None


def _statuses(value: str) -> tuple[str, ...]:
    name = value.lower()
    found = SYNONYMS.get(name) or tuple(one for one in STATUSES if one.startswith(name))
    if not found:
        raise ValueError(f"{value} is no status; they are {', '.join((*STATUSES, *SYNONYMS))}")
    return found


# --- whether a trace passes --------------------------------------------------------------------------------------


def took_s(trace: Mapping[str, Any], now: float) -> float | None:
    """How long a trace took, or takes until now. None where that is not known."""
    try:
        if trace["ended_at"] is not None:
            return parse_time(trace["ended_at"]) - parse_time(trace["started_at"])
        return now - parse_time(trace["started_at"]) if trace["status"] in SYNONYMS["open"] else None
    except ValueError:
        return None


def _began(trace: Mapping[str, Any]) -> float | None:
    try:
        return parse_time(min(trace["started_at"], trace["created_at"]))
    except ValueError:
        return None


def _says(condition: Condition, *texts: str) -> bool:
    wanted = [str(value).lower() for value in condition.values]
    return any(one in text.lower() for text in texts for one in wanted)


def _of_error(condition: Condition, trace: Mapping[str, Any], now: float) -> bool:
    error = trace["error"]
    return error is not None and (ANY in condition.values or _says(condition, error_line(error)))


def _aged(condition: Condition, trace: Mapping[str, Any], now: float) -> bool:
    began = _began(trace)
    return condition.holds(None if began is None else now - began)


def _between(condition: Condition, trace: Mapping[str, Any], now: float) -> bool:
    began, at = _began(trace), float(condition.values[0])
    return began is not None and (began >= at if condition.field == "since" else began < at)


_TESTS: dict[str, Callable[[Condition, Mapping[str, Any], float], bool]] = {
    "status": lambda condition, trace, _: trace["status"] in condition.values,
    "tag": lambda condition, trace, _: not set(condition.values).isdisjoint(map(str, trace["tags"])),
    "session": lambda condition, trace, _: trace["session_id"] in condition.values,
    "user": lambda condition, trace, _: trace["user_id"] in condition.values,
    "agent": lambda condition, trace, _: _says(condition, trace["agent_type"]),
    "model": lambda condition, trace, _: _says(condition, *map(str, trace["models"])),
    "id": lambda condition, trace, _: _says(condition, trace["trace_id"]),
    "task": lambda condition, trace, _: _says(condition, trace["task"]),
    "error": _of_error,
    "took": lambda condition, trace, now: condition.holds(took_s(trace, now)),
    "age": _aged,
    "cost": lambda condition, trace, _: condition.holds(trace["tree_totals"]["total_cost"]),
    "tokens": lambda condition, trace, _: condition.holds(trace["tree_totals"]["total_tokens"]),
    "messages": lambda condition, trace, _: condition.holds(trace["tree_totals"]["total_messages"]),
    "events": lambda condition, trace, _: condition.holds(trace["last_event_id"]),
    "since": _between,
    "until": _between,
}
