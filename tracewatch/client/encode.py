"""Encoding: any Python values of an agent become the bytes of events that the server accepts.

Rule 1: no value makes anything here raise. A value that JSON can't hold becomes its repr; one that is too large or too
        deep for an event is made to fit by ``model/fit.py``.
Rule 2: bytes are made at once, in the caller's thread. If the agent changes a value later, the event stays as it was.
Rule 3: the work for one value is bounded: in levels, in values (a value that is linked from many places counts each
        time), in characters, and in the time that code of the agent's may take in it. What is beyond is cut, which the
        rest says.
"""

from __future__ import annotations

import array
import dataclasses
import datetime
import enum
import marshal
import math
import time
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import orjson

from ..model import fit
from ..model.blobs import MAX_BLOB_BYTES
from ..model.canonical import MAX_DEPTH, depth_exceeds
from ..model.contents import INLINE_BYTES, Keep, taken_out
from ..model.times import format_time, normalize_time
from .interrupts import by_handler

T = TypeVar("T")
N = TypeVar("N")
_DEEPEST = 60  # levels; a deeper value, or one that contains itself, is cut there
_MOST = 150_000  # values of JSON's types; an event of the size that the log takes has no more
_MOST_COPIED = 20_000  # values, where they are copied one by one
_MOST_SAID = 2_000  # values, where they are said in words
_CHARS = 4 * fit.EVENT_BYTES  # of all texts together; a longer text on its own may be as long as a message
_AGENT_S = 1.0  # that ``__repr__`` and other code of the agent's may take; what comes after is named by its type only
_SHORT_CHARS = INLINE_BYTES // 4  # a text of so many stays where it is, unless it is a data URL
_FIRST = 64  # values that are looked at before a value is copied as it is
_TRIM_BYTES = 64 * 1024  # of JSON that is kept as it is
_SMALL_BYTES = 16 * 1024  # of a copy whose texts may be linked from everywhere in it, and still make no large JSON
# How marshal begins a list, dict or tuple that another part of the value may link to (CPython's Python/marshal.c)
_SHARED = (b"\xdb", b"\xfb", b"\xa8", b"\xa9")
_PARTS = frozenset({"message", "patch", "goal"})  # keys of events under which there are values of their own
_SCALARS = frozenset({str, int, float, bool, type(None)})
_LISTED: tuple[type, ...] = (
    *(list, tuple, set, frozenset, deque, array.array),
    *(type({}.keys()), type({}.values()), type({}.items())),
)


def encode(event: dict[str, Any], at: float | None = None, *, own: bool = False) -> list[bytes]:
    """The event as JSON with ``occurred_at``; several events if a message's text has to be split.

    ``at``: its time in Unix seconds; None is now. ``own``: all its values are ``settled`` already.
    """
    timed = {**event, "occurred_at": format_time(time.time() if at is None else at)}
    body = _json(timed if own or _is_flat(event) else _parts_settled(timed))
    if len(body) <= fit.EVENT_BYTES:
        return [body]
    return [orjson.dumps(one) for one in fit.fit(orjson.loads(body))]


def _is_flat(event: dict[str, Any]) -> bool:
    """Whether there is nothing to copy: an event of our own with short texts and numbers."""
    for value in event.values():
        if type(value) not in _SCALARS or (type(value) is str and len(value) > fit.MESSAGE_CHARS):
            return False
    return True


def _parts_settled(event: dict[str, Any]) -> dict[str, Any]:
    """A copy of an event in which a large value costs no other one its place."""
    return {
        key: {name: settled(part) for name, part in value.items()}
        if key in _PARTS and type(value) is dict and len(value) <= _FIRST
        else settled(value)
        for key, value in event.items()
    }


def dumps(value: Any) -> bytes:
    """Any value as JSON.

    orjson must not meet a list that another thread changes while code of the agent's runs in it. So it gets a copy of
    our own, and runs no such code: ``marshal`` copies plain data in one step, ``plain`` all other values.
    """
    return _json(settled(value))


def dumps_whole(value: Any, most: int, spent_s: list[float] | None = None) -> bytes:
    """As ``dumps``, but with whole texts, of at most ``most`` characters together, for what is kept by ``settled``.

    ``spent_s``: the time that code of the agent's took in values before this one, of which all have one share; the
    time that it takes in this one is added.
    """
    if not _is_plain(value, _MOST):
        copying = _Copying(_MOST_COPIED, whole=True, spent_s=sum(spent_s or ()))
        copy = copying.copy(value, _DEEPEST)
        if spent_s is not None:
            spent_s[:] = [copying.spent_s]
        if _chars(copy, most) <= most:
            try:
                return _trimmed(orjson.dumps(copy))
            except (TypeError, ValueError, RecursionError):
                pass  # bytes, or half a surrogate pair
        value = copy  # so that no code of the agent's runs a second time
    return _trimmed(dumps(value))


def _trimmed(body: bytes) -> bytes:
    """The same bytes in no more memory than they need.

    orjson asks for eight times a text's bytes before it writes it, and what it returns keeps all of that. Where memory
    is limited, a few such bodies leave none for the next one, and orjson ends the process when it gets none.
    """
    return body if len(body) <= _TRIM_BYTES else bytes(memoryview(body))


def _chars(value: Any, most: int) -> int:
    """How many characters the texts of a copy have; it stops above ``most``."""
    chars, waiting = 0, [value]
    while waiting and chars <= most:
        one = waiting.pop()
        if type(one) is dict:
            waiting.extend(one.values())
        elif type(one) is list:
            waiting.extend(one)
        elif type(one) is str or type(one) is bytes:
            chars += len(one)
    return chars


def _json(value: Any) -> bytes:
    try:
        body = orjson.dumps(value)
        if body.count(b"[") + body.count(b"{") <= MAX_DEPTH or not depth_exceeds(orjson.loads(body)):
            return body
    except (TypeError, ValueError, RecursionError):
        pass  # bytes, sets, non-text keys, lone surrogates, huge numbers, cycles: the slow way below takes them all
    return orjson.dumps(plain(value))


def settled(value: Any, keep: Keep | None = None) -> Any:
    """A copy of our own, to be encoded later without code of the agent's.

    ``keep``: what is big or binary goes there, and references stand in its place.
    """
    if type(value) in _SCALARS:
        if type(value) is str and keep is not None and (len(value) > _SHORT_CHARS or value[:5] == "data:"):
            return taken_out(value, keep)
        if type(value) is not str or len(value) <= fit.MESSAGE_CHARS:
            return value
    try:
        seen = _is_plain(value, _FIRST)
        if seen is False:
            return _slowly(value, keep)
        data = marshal.dumps(value)
        copy = marshal.loads(data)
    except (ValueError, RuntimeError):  # objects in it, or another thread has changed it meanwhile
        return _slowly(value, keep)
    small = len(data) <= _SMALL_BYTES and all(data.find(mark, 1) < 0 for mark in _SHARED)
    copy = copy if seen or small or _is_plain(copy, _MOST) else _slowly(copy, keep)
    if keep is None or not (len(data) > INLINE_BYTES or _may_hold_base64(data)):
        return copy
    return taken_out(copy, keep)


def _may_hold_base64(data: bytes) -> bool:
    """Whether one of the words is there that stand in all known forms (a loop would take three times as long)."""
    return (
        (b"base64" in data or b"mime" in data or b"media" in data)
        or (b"b64_json" in data)
        or (b"file_data" in data or b"input_audio" in data)
    )


def _slowly(value: Any, keep: Keep | None) -> Any:
    """A copy that is made value by value."""
    if keep is None:
        return plain(value)
    return taken_out(_Copying(_MOST_COPIED, whole=True).copy(value, _DEEPEST), keep)


def _is_plain(value: Any, most: int) -> bool | None:
    """Whether a value has JSON's types only, and no more levels, values and characters than are allowed.

    None: its first ``most`` values do not say.
    """
    level, values, chars = [value], 0, 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for holder in level:
            kind = type(holder)
            if kind is not dict and kind is not list and kind is not tuple:
                return False
            values += len(holder)
            if values > most:
                return None if values <= _MOST else False
            if kind is dict:
                for key in holder:
                    if type(key) is not str:
                        return False
                    chars += len(key)
            for item in holder.values() if kind is dict else holder:
                kind = type(item)
                if kind is str:
                    chars += len(item)
                elif kind not in _SCALARS:
                    below.append(item)
            if chars > _CHARS:
                return False
        if not below:
            return True
        level = below
    return False


def text_of(value: Any) -> str:
    """The ``repr`` of a value, which never raises here and which JSON can hold."""
    return clean(guarded(lambda: str.__str__(repr(value)), "", lambda: f"<{type_name(value)} whose repr raises>"))


def clean(text: str) -> str:
    """The text without characters that UTF-8 can't hold. The two halves of a surrogate pair become one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return joined.encode("utf-8", "replace").decode()
    return text


def plain(value: Any, depth: int = _DEEPEST) -> Any:
    """Any value in the types of JSON, copied, at most ``depth`` levels of it; and within Rule 3."""
    return _Copying(_MOST_COPIED).copy(value, depth)


class _Copying:
    """The copying of one value, with what is left of the work allowed for it."""

    def __init__(self, most: int, *, whole: bool = False, spent_s: float = 0.0) -> None:
        self._values = most
        self._whole = whole  # long texts and bytes are not cut: they are no part of what is copied, but kept elsewhere
        self._chars = _CHARS
        self._agent_s = _AGENT_S - spent_s

    @property
    def spent_s(self) -> float:
        """The time that code of the agent's has taken."""
        return _AGENT_S - self._agent_s

    def copy(self, value: Any, depth: int) -> Any:
        """A copy in the types of JSON. Other threads and the value's own code may change it meanwhile."""
        self._values -= 1
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return self._text(value)
        if kind is dict:
            return self._mapping(list(islice(value.items(), max(self._values, 0) + 1)), kind, depth)
        if kind is list or kind is tuple:
            return self._listing(list(islice(value, max(self._values, 0) + 1)), kind, depth)
        return guarded(lambda: self._copy(value, kind, depth), None, lambda: self._repr(value))

    def _copy(self, value: Any, kind: type, depth: int) -> Any:
        # The type is asked, and not ``isinstance``, which believes a __class__ of the value's own.
        if issubclass(kind, enum.Enum):
            return self.copy(self._ask(lambda: value.value), depth - 1) if depth else None
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if -(2**63) <= number < 2**63 else self._digits(number)
        if issubclass(kind, float):
            return float.__float__(value) if math.isfinite(value) else None
        if issubclass(kind, (bytes, bytearray)):
            return self._bytes(value)
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind) if not field.name.startswith("_")]
            return self._mapping(((name, self._ask(partial(getattr, value, name))) for name in names), kind, depth)
        if kind is types.SimpleNamespace:
            value, kind = vars(value), dict
        if issubclass(kind, (dict, types.MappingProxyType)):
            return self._mapping(self._first(lambda: value.items()), kind, depth)
        if issubclass(kind, _LISTED):
            return self._listing(self._first(lambda: value), kind, depth)
        if issubclass(kind, (datetime.date, datetime.time)):
            # Not by orjson: a time zone whose utcoffset raises ends the process there
            return self._text(str.__str__(self._ask(lambda: value.isoformat())))
        return self._text(str(value)) if kind is uuid.UUID else self._repr(value)

    def _first(self, items: Callable[[], Iterable[T]]) -> list[T]:
        """As many items as may be copied, and one more, taken in one step where their type is Python's own."""
        return self._ask(lambda: list(islice(items(), max(self._values, 0) + 1)))

    def _mapping(self, pairs: Iterable[tuple[Any, Any]], kind: type, depth: int) -> Any:
        if depth <= 0:
            return f"<{name_of_type(kind)}>"
        kept: dict[str, Any] = {}
        for key, item in pairs:
            if self._values <= 0 or self._chars <= 0:
                kept["…"] = "cut"
                break
            kept[self._name(key) if type(key) is str else self._key(key)] = self.copy(item, depth - 1)
        return kept

    def _key(self, key: Any) -> str:
        return self._name(str.__str__(key)) if issubclass(type(key), str) else self._repr(key)

    def _name(self, text: str) -> str:
        return self._text(text) if len(text) <= _SHORT_CHARS or not self._whole else clean(text[:_SHORT_CHARS])

    def _listing(self, items: list[Any], kind: type, depth: int) -> Any:
        if depth <= 0:
            return f"<{name_of_type(kind)}>"
        kept: list[Any] = []
        for item in items:
            if self._values <= 0 or self._chars <= 0:
                kept.append("… cut")
                break
            kept.append(self.copy(item, depth - 1))
        return kept

    def _text(self, text: str) -> str:
        if self._whole and len(text) > _SHORT_CHARS:
            return text
        if len(text) > fit.MESSAGE_CHARS:
            text = fit.shortened_text(text, fit.MESSAGE_CHARS)
        self._chars -= len(text)
        return clean(text)

    def _bytes(self, value: bytes | bytearray) -> Any:
        if self._whole and len(memoryview(value)) <= MAX_BLOB_BYTES:
            return value if type(value) is bytes else bytes(memoryview(value))
        begin = bytes(memoryview(value)[: fit.EVENT_BYTES])
        more = len(memoryview(value)) - len(begin)
        text = repr(begin if issubclass(type(value), bytes) else bytearray(begin))
        self._chars -= len(text)
        return text + (fit.marker(more) if more else "")

    @staticmethod
    def _digits(value: int) -> str:
        try:
            return str(value)
        except ValueError:  # more digits than Python writes
            return fit.shortened_text(hex(value), 10_000)

    def _repr(self, value: Any) -> str:
        if self._agent_s <= 0:
            return f"<{type_name(value)}>"
        text = self._ask(lambda: text_of(value))
        return self._text(fit.shortened_text(text, fit.EVENT_BYTES))

    def _ask(self, agent: Callable[[], T]) -> T:
        """Call code of the agent's, by the clock."""
        began = time.monotonic()
        try:
            return agent()
        finally:
            self._agent_s -= time.monotonic() - began


def guarded(agent: Callable[[], T], otherwise: T, instead: Callable[[], T] | None = None) -> T:
    """The result of code of the agent's; ``otherwise``, or the result of ``instead``, if it raises anything.

    What a signal handler raises meanwhile is raised.
    """
    try:
        return agent()
    except BaseException as error:
        if by_handler(error):
            raise
    return otherwise if instead is None else instead()


def type_name(value: Any) -> str:
    """The name of a value's type, without code of the agent's."""
    return name_of_type(type(value))


def name_of_type(kind: type) -> str:
    """The name of a type, without code of its metaclass."""
    return clean(str(type.__dict__["__name__"].__get__(kind)))


# --- text and names from any value -------------------------------------------------------------------------------


def words(value: Any, longest: int = 100_000) -> str:
    """Any value as text for a person, of about ``longest`` characters at most."""
    if type(value) is str and len(value) <= longest and value.isascii():
        return value
    return clean(fit.shortened_text(_words(value), longest))


def name_of(value: Any) -> str:
    """Any value as an id or name: text of 1-256 characters."""
    if type(value) is str and 0 < len(value) <= fit.NAME_CHARS and value.isascii():
        return value
    return clean(fit.name(_words(value)))


def _words(value: Any) -> str:
    kind = type(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if kind is int or (issubclass(kind, (bytes, bytearray, dict, *_LISTED)) and not _is_plain(value, _FIRST)):
        copied = _Copying(_MOST_SAID).copy(value, _DEEPEST)  # the repr of so much has no bound
        return copied if isinstance(copied, str) else repr(copied)
    return text_of(value)


def is_brief(value: Any) -> bool:
    """Whether the ``repr`` of a value is that of few parts, as far as Python's own types say."""
    if not issubclass(type(value), (str, bytes, bytearray, dict, *_LISTED)):
        return True
    if issubclass(type(value), (str, bytes, bytearray)):
        return guarded(lambda: len(value) <= _CHARS, False)
    return bool(_is_plain(value, _FIRST))


def number_of(read: Callable[[Any, N], T | None], most: N, value: Any) -> T | None:
    """A number of at most ``most``, read by ``fit.count`` or ``fit.amount``, of which no code of the value's raises."""
    kind = type(value)
    if kind in _SCALARS:
        return read(value, most)
    # Text of 50 MB takes seconds to be no number
    return None if issubclass(kind, (str, bytes, bytearray)) else guarded(lambda: read(value, most), None)


def moment_of(value: Any) -> str | None:
    """A time in the protocol's form: of RFC 3339 text, a datetime or Unix seconds; None for anything else."""
    kind = type(value)
    if issubclass(kind, str):
        return guarded(lambda: normalize_time(str.__str__(value)[:100]), None)
    if issubclass(kind, datetime.datetime):  # one without a zone is local time, as Python has it
        return guarded(lambda: format_time(value.timestamp()), None)
    seconds = number_of(fit.amount, 253_402_300_799, value)  # the end of the year 9999
    return None if seconds is None else format_time(seconds)


def seconds_of(value: Any, otherwise: float | None = None) -> float | None:
    """A time to wait, for at most a year; ``otherwise`` for what is no number."""
    try:
        seconds = float(value)
        return max(0.0, min(seconds, 366 * 86_400.0)) if not math.isnan(seconds) else otherwise
    except Exception as error:
        if by_handler(error):
            raise
        return otherwise
