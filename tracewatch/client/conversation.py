"""What a trace has already, by content: the texts of its messages, and what its last model calls were asked.

Rule 1: what is remembered is bounded: digests of 16 bytes, of the newest texts and of the newest calls.
Rule 2: what a message costs that no model call is asked about is one line: digests are made when a call wants them.
Rule 3: a text may be said twice. An item of an input is a message that no item before it is; so a second "go on" is
        another message than the first.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

import orjson

MOST_TEXTS = 20_000  # and values
MOST_WAITING = 500  # contents whose digests are not made yet
WAITING_CHARS = 8 * 1024  # of one of these
MOST_SAME = 8  # messages of one text
MOST_CALLS = 16  # conversations that go on side by side in one trace
MOST_ITEMS = 60_000  # of all calls that are remembered
_MOST_BLOCKS = 100  # of a content, that are known by themselves
_VARIANT_BYTES = 64 * 1024  # of a tool's result that may come back as JSON text


CONTENT, RESULT = "/content", "/content/result"  # JSON pointers into messages
NOWHERE = ""  # the pointer of a text that a message has in another form: to a reader it is the same


class TextPlace(NamedTuple):
    """Where a text stands: in a message, at a JSON pointer."""

    message_id: str
    at: str


@dataclass(slots=True)
class Asked:
    """What one model call was asked, in digests. ``ids``: for each item the messages that it is made of."""

    message_id: str
    input: list[bytes]
    ids: list[tuple[str, ...]]
    tools: list[bytes]
    tools_at: str  # the message whose request has these tools
    params: bytes
    params_at: str
    answered: bool = False  # whether its answer is in the trace


class Run(NamedTuple):
    """Items ``first`` to ``end`` that are those from ``origin`` on of another call."""

    first: int
    end: int
    origin: int


def text_digest(text: str) -> bytes:
    """What a text is known by."""
    digest: bytes = new_sum(text).digest()
    return digest


def new_sum(text: str = "") -> Any:
    """A text's digest to be, of which the parts come one after the other."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=16, person=b"text")


def key_of(value: Any) -> bytes:
    """What a value of JSON's types is known by."""
    if type(value) is str:
        return text_digest(value)
    return blake2b(orjson.dumps(value), digest_size=16, person=b"json").digest()


class Conversation:
    """The memory of one recorder of one trace. Not for two threads at once, but for ``note``."""

    def __init__(self) -> None:
        self._history: object = None
        self.used = False  # whether a model call has asked for anything
        self._waiting: deque[tuple[str, str, Any]] = deque(maxlen=MOST_WAITING)
        self.heard = (
            self._waiting.append
        )  # as ``note``, of a short text: the cheapest there is, as it is each message's
        self._places: dict[bytes, list[TextPlace]] = {}  # the oldest first, and of one text as well
        self._tool_calls: dict[str, str] = {}  # tool_call_id: message
        self._calls: list[Asked] = []  # the newest last

    # --- what is said ---

    def note(self, message_id: str, role: str, content: Any) -> None:
        """Take note of a message. ``content``: our own copy, or the digest of a text as bytes."""
        if type(content) is str and len(content) > WAITING_CHARS:
            content = text_digest(content)
        if self.used and len(self._waiting) == MOST_WAITING:
            self.learn()
        self._waiting.append((message_id, role, content))

    def note_tool_call(self, message_id: str, tool_call_id: str) -> None:
        """Take note that a message is the call of this id."""
        self._tool_calls[tool_call_id] = message_id
        if len(self._tool_calls) > MOST_TEXTS:
            del self._tool_calls[next(iter(self._tool_calls))]

    def learn(self, history: object = None) -> None:
        """Make the digests of what was said since the last time.

        ``history``: what a recorder's history in the log is known by. When it is another one the log may have lost what
        was said before.
        """
        if history is not None and self._history not in (None, history):
            self.forget()
        self._history = history or self._history
        self.used = True
        while self._waiting:
            message_id, role, content = self._waiting.popleft()
            whole: bytes = content if type(content) is bytes else key_of(content)
            self._put(whole, TextPlace(message_id, CONTENT))
            self._put(_of_role(role, whole), TextPlace(message_id, NOWHERE))
            if type(content) is dict or type(content) is list:
                for key, at in _parts_of(content):
                    self._put(key, TextPlace(message_id, at))

    def _put(self, key: bytes, place: TextPlace) -> None:
        there = self._places.pop(key, None) or []  # put in again, so that it is among the newest
        if place not in there:
            there = [*there, place][-MOST_SAME:]
        self._places[key] = there
        if len(self._places) > MOST_TEXTS:
            for old in list(islice(self._places, MOST_TEXTS // 10)):
                del self._places[old]

    def unlearn(self, message_id: str) -> None:
        """Forget what a message says, as it has another content now, and the calls that were asked it."""
        waiting = [one for one in self._waiting if one[0] != message_id]
        self._waiting.clear()
        self._waiting.extend(waiting)
        self._calls = [call for call in self._calls if not any(message_id in ids for ids in call.ids)]
        for key in [key for key, there in self._places.items() if any(one.message_id == message_id for one in there)]:
            self._places[key] = [one for one in self._places[key] if one.message_id != message_id]

    def forget(self) -> None:
        """Forget all: the log may have lost it."""
        self._waiting.clear()
        self._places, self._tool_calls, self._calls = {}, {}, []

    # --- what is there ---

    def message(self, role: str, key: bytes, but: Iterable[str]) -> TextPlace | None:
        """The message of this role and content that is none of ``but``."""
        return self._first(_of_role(role, key), but)

    def text(self, key: bytes, but: Iterable[str]) -> TextPlace | None:
        """Where a value stands, if possible in none of the messages ``but``."""
        there = [place for place in self._places.get(key, ()) if place.at != NOWHERE]
        return next((place for place in there if place.message_id not in but), there[-1] if there else None)

    def result(self, key: bytes, but: Iterable[str]) -> TextPlace | None:
        """Where a value is the result of a tool, in none of the messages ``but``."""
        there = (one for one in self._places.get(key, ()) if one.at in (RESULT, NOWHERE) and one.message_id not in but)
        return next(there, None)

    def _first(self, key: bytes, but: Iterable[str]) -> TextPlace | None:
        return next((place for place in self._places.get(key, ()) if place.message_id not in but), None)

    def tool_call(self, tool_call_id: str | None) -> str | None:
        """The message that is the call of this id."""
        return self._tool_calls.get(tool_call_id) if tool_call_id is not None else None

    # --- calls ---

    def claimed(self) -> set[str]:
        """The messages that inputs of the remembered calls have."""
        return {name for call in self._calls for ids in call.ids for name in ids}

    def before(self, given: Sequence[bytes]) -> Asked | None:
        """The call that this input goes on from: the one with the most items in common at its begin, else any."""
        best, most = None, 0
        for call in reversed(self._calls):
            common = _common(call.input, given)
            if common > most:
                best, most = call, common
        if best is None:
            wanted = set(given)
            best = next((call for call in reversed(self._calls) if not wanted.isdisjoint(call.input)), None)
        return best

    def with_tools(self, tools: Sequence[bytes]) -> Asked | None:
        """The newest call with these tools, or else with some of them."""
        same = next((call for call in reversed(self._calls) if call.tools == tools), None)
        wanted = set(tools)
        return same or next((call for call in reversed(self._calls) if not wanted.isdisjoint(call.tools)), None)

    def with_params(self, params: bytes) -> Asked | None:
        """The newest call with these parameters."""
        return next((call for call in reversed(self._calls) if call.params == params), None)

    def remember(self, call: Asked, before: Asked | None) -> None:
        """Remember a call, in the place of the one that it goes on from."""
        if before is not None and call.input[: len(before.input)] == before.input:
            self._calls = [one for one in self._calls if one is not before]
        self._calls = [*self._calls, call][-MOST_CALLS:]
        while len(self._calls) > 1 and sum(len(one.input) for one in self._calls) > MOST_ITEMS:
            del self._calls[0]


def _parts_of(content: Any) -> Iterator[tuple[bytes, str]]:
    """The digests of the parts of a content that come back in inputs, each with its JSON pointer."""
    if type(content) is dict and "tool_name" in content and "result" in content:
        result = content["result"]
        yield key_of(result), RESULT
        if type(result) is not str:
            for text in _as_text(result):
                yield text_digest(text), NOWHERE
    elif type(content) is list:
        for index, block in enumerate(content[:_MOST_BLOCKS]):
            said = block.get("text") if type(block) is dict else None
            if type(said) is str:
                yield text_digest(said), f"/content/{index}/text"
            yield key_of(block), f"/content/{index}"


def _as_text(value: Any) -> list[str]:
    """The ways in which agents write a value into an input."""
    if len(orjson.dumps(value)) > _VARIANT_BYTES:
        return []
    try:
        return list(
            dict.fromkeys(
                (
                    json.dumps(value),
                    json.dumps(value, ensure_ascii=False),
                    json.dumps(value, indent=2),
                    orjson.dumps(value).decode(),
                    str(value),
                )
            )
        )
    except (ValueError, RecursionError):
        return []


def _of_role(role: str, key: bytes) -> bytes:
    return role.encode("utf-8", "replace") + b"\0" + key


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many items two lists have in common at their begin."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(index for index in range(most) if one[index] != other[index])


def runs(given: Sequence[bytes], before: Sequence[bytes]) -> list[Run]:
    """The parts of a list that are parts of another one, in the order of both, each as long as it can be."""
    at: dict[bytes, list[int]] = {}
    for index, key in enumerate(before):
        at.setdefault(key, []).append(index)
    found: list[Run] = []
    place = next_origin = 0
    while place < len(given):
        places = at.get(given[place], ())
        which = bisect_left(places, next_origin)
        if which == len(places):
            place += 1
            continue
        origin = end = places[which]
        while end < len(before) and place + end - origin < len(given) and given[place + end - origin] == before[end]:
            end += 1
        found.append(Run(place, place + end - origin, origin))
        place, next_origin = place + end - origin, end
    return found
