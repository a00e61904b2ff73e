"""What a model call was asked: its ``request``, which names what the trace has already, and the whole of it.

Rule 1: an item of ``input`` or ``tools`` is itself, unless it is an object with one of the keys ``message_id``,
        ``value``, ``list_of``, and ``input_of`` in an input or ``tools_of`` in tools: then it is a reference.
Rule 2: a reference names a message that was there before, so that putting together comes to an end: what leads to the
        same message or a later one is lost.
Rule 3: what can't be found is told (``lost``) and never guessed. ``digest`` says whether all is as it was given.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from .canonical import MAX_DEPTH, depth_exceeds

MOST_ITEMS = 100_000  # of one input, put together
MOST_STEPS = 300_000  # parts of earlier inputs that are looked at for one prompt
MOST_BYTES = 48 * 1024 * 1024  # of one prompt's messages
AT_ONCE = 20  # messages, of four million characters each at most, that are asked for together
LISTS = ("tools", "input")
_OF = {"input": "input_of", "tools": "tools_of"}
CONTENT = "/content"

Message = Mapping[str, Any]
Wanted = list[str]
Found = Mapping[str, Message]


class TooMuch(Exception):
    """A prompt that is too large to put together, or that too many others must be read for."""


class RequestFault(NamedTuple):
    """What is wrong with a request. ``path``: its place below ``request``."""

    path: str
    message: str


# --- the form of a request ---------------------------------------------------------------------------------------


def kind_of(item: Any, name: str) -> str:
    """The key that makes an item a reference; "" for an item that is itself. ``name``: ``input`` or ``tools``."""
    if type(item) is dict:
        for key in ("message_id", "value", "list_of", _OF[name], "refused"):
            if key in item:
                return key
    return ""


def count_of(item: Any, name: str) -> int:
    """How many items of the whole an item stands for."""
    kind = kind_of(item, name)
    if kind in ("list_of", _OF[name]):
        return int(item["to"]) - int(item.get("from", 0))
    if kind == "refused":
        return int(item.get("count", 1))
    return 1


def faults_of(request: Mapping[str, Any]) -> Iterator[RequestFault]:
    """What is wrong with the references of a request whose ``input`` and ``tools``, if any, are lists."""
    for name in LISTS:
        total = 0
        for index, item in enumerate(request.get(name) or ()):
            message = _fault(item, name)
            if message:
                yield RequestFault(f"{name}.{index}", message)
                continue
            total += count_of(item, name)
        if total > MOST_ITEMS:
            yield RequestFault(name, f"more than {MOST_ITEMS:,} items")


def _fault(item: Any, name: str) -> str:
    kind = kind_of(item, name)
    if kind == "value":
        parts = item.get("parts", {})
        if type(parts) is not dict:
            return "parts: an object of JSON pointers"
        for pointer, part in parts.items():
            if type(part) is not dict or not _is_id(part.get("message_id")):
                return "parts: each names a message_id"
            if not _is_pointer(pointer) or not _is_pointer(part.get("at", CONTENT)):
                return 'parts: a JSON pointer is "" or begins with /'
    elif kind == "refused":
        return "" if _is_count(item.get("count", 1)) else "count: a whole number from 0"
    elif kind:
        if not _is_id(item[kind]):
            return f"{kind}: text of 1-256 characters"
        if kind != "message_id":
            first, end = item.get("from", 0), item.get("to")
            if not _is_count(first) or not _is_count(end) or end < first:
                return "from and to: whole numbers, the first item from 0 and the one behind the last"
    return ""


def _is_id(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= 256


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_ITEMS


def _is_pointer(value: Any) -> bool:
    return type(value) is str and (not value or value[0] == "/")


def references(request: Any) -> Iterator[tuple[str, str]]:
    """The messages that a request names, each with its place below ``request``; none of a request of a wrong form.

    >>> list(references({"input": [{"message_id": "m1"}, "and this"]}))
    [('input.0', 'm1')]
    """
    if type(request) is not dict:
        return
    if _is_id(request.get("params_of")):
        yield "params_of", request["params_of"]
    for name in LISTS:
        items = request.get(name)
        for index, item in enumerate(items if type(items) is list else ()):
            kind = kind_of(item, name)
            if kind == "value":
                parts = item.get("parts")
                for part in parts.values() if type(parts) is dict else ():
                    if type(part) is dict and _is_id(part.get("message_id")):
                        yield f"{name}.{index}", part["message_id"]
            elif kind not in ("", "refused") and _is_id(item[kind]):
                yield f"{name}.{index}", item[kind]


# --- what it says whether all came back -----------------------------------------------------------------------------


def digest_of(json: bytes) -> bytes:
    """The 16 bytes that stand for a value, of its JSON (canonical bytes)."""
    return blake2b(json, digest_size=16).digest()


def digest_of_all(params: Any, tools: Sequence[bytes], given: Sequence[bytes]) -> str:
    """The ``digest`` of a request, of the digests of its tools and of its input. ``params``: None if there are none."""
    return blake2b(b"".join([digest_of(orjson.dumps(params)), *tools, *given]), digest_size=16).hexdigest()


# --- putting it together -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Prompt:
    """All that a model call was asked.

    ``lost``: the places of what the trace no longer has (``input.3``); there stands null, or the rest of the item.
    ``exact``: whether all is as it was given, to the byte of each value; None: nothing says so.
    """

    params: Any = None
    tools: list[Any] | None = None
    input: list[Any] | None = None
    lost: list[str] = field(default_factory=list)
    exact: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """``{params, tools, input, exact, lost}``; params, tools and input only where the request has them."""
        said = {"params": self.params, "tools": self.tools, "input": self.input}
        shown = {key: value for key, value in said.items() if value is not None}
        return {**shown, "exact": self.exact, "lost": self.lost}


class _Range(NamedTuple):
    """Some items of a call's list, and where they stand in the whole."""

    message_id: str
    below: int  # the sequence of the message that names it
    at: int
    first: int
    end: int


class _List:
    """One list on its way to being whole."""

    def __init__(self, name: str, items: Sequence[Any], sequence: int) -> None:
        self.name = name
        self.values: list[Any] = [None] * sum(count_of(item, name) for item in items)
        self.lost: set[int] = set()
        self.ranges: list[_Range] = []  # of other calls, still to be looked at
        self.leaves: list[tuple[int, Any]] = []  # items that name messages, and where they stand
        self.cut: list[_Range] = []  # of lists that messages hold as JSON
        self.steps = 0
        self.take(items, sequence, 0, 0, len(self.values))

    def take(self, items: Sequence[Any], sequence: int, at: int, first: int, end: int) -> None:
        """Put in the items ``first`` to ``end`` of a call's list, from ``at`` on. ``sequence``: of its message."""
        place, name = 0, self.name
        for item in items:
            self.steps += 1
            begin, place = place, place + count_of(item, name)
            low, high = max(begin, first), min(place, end)
            if low >= high:
                if begin >= end:
                    break
                continue
            to, kind = at + low - first, kind_of(item, name)
            if kind in ("list_of", _OF[name]):
                origin = item.get("from", 0) + low - begin
                one = _Range(item[kind], sequence, to, origin, origin + high - low)
                (self.cut if kind == "list_of" else self.ranges).append(one)
            elif kind == "refused":
                self.lose(to, to + high - low)
            elif kind and (kind == "message_id" or item.get("parts")):
                self.leaves.append((to, item))
            else:
                self.values[to] = item["value"] if kind else item
        if end > place:
            self.lose(at + max(place, first) - first, at + end - first)

    def lose(self, first: int, end: int) -> None:
        """Note that some items can't be had."""
        self.lost.update(range(first, end))


def assemble(message: Message) -> Generator[Wanted, Found, Prompt | None]:
    """Put a message's request together: yields ids of messages, and is sent those that there are.

    Returns None for a message without a request. Raises TooMuch.
    """
    request = message.get("request")
    if type(request) is not dict or next(faults_of(request), None) is not None:
        return None
    lists = {name: _List(name, request[name], message["sequence"]) for name in LISTS if type(request.get(name)) is list}
    prompt = Prompt(params=request.get("params"))
    if prompt.params is None and _is_id(request.get("params_of")):
        found = yield [request["params_of"]]
        of = found.get(request["params_of"], {}).get("request")
        prompt.params = of.get("params") if type(of) is dict else None
        if prompt.params is None:
            prompt.lost.append("params")
    for one in lists.values():
        yield from _follow(one)
    yield from _fill(list(lists.values()))
    if "tools" in lists:
        prompt.tools = lists["tools"].values
    if "input" in lists:
        prompt.input = lists["input"].values
    prompt.lost += [f"{name}.{index}" for name, one in lists.items() for index in sorted(one.lost)]
    if type(request.get("digest")) is str:
        tools, given = (
            [digest_of(orjson.dumps(value)) for value in lists[name].values] if name in lists else [] for name in LISTS
        )
        prompt.exact = digest_of_all(prompt.params, tools, given) == request["digest"]
    return prompt


def _follow(one: _List) -> Generator[Wanted, Found, None]:
    """Look at the calls that are named, and at those that they name."""
    while one.ranges:
        ranges, one.ranges = one.ranges, []
        names = list(dict.fromkeys(some.message_id for some in ranges))
        for start in range(0, len(names), AT_ONCE):
            asked = set(names[start : start + AT_ONCE])
            found = yield list(asked)
            for some in ranges:
                if some.message_id in asked:
                    _continue(one, some, found.get(some.message_id))
        if one.steps > MOST_STEPS:
            raise TooMuch("too many earlier calls")


def _continue(one: _List, some: _Range, message: Message | None) -> None:
    request = message.get("request") if message is not None else None
    items = request.get(one.name) if type(request) is dict else None
    good = message is not None and type(items) is list and message.get("sequence", some.below) < some.below
    if not good or any(_fault(item, one.name) for item in items or ()):
        one.lose(some.at, some.at + some.end - some.first)
        return
    assert message is not None and items is not None
    one.take(items, message["sequence"], some.at, some.first, some.end)


def _fill(lists: list[_List]) -> Generator[Wanted, Found, None]:
    """Put in what messages say."""
    names: dict[str, None] = {}
    for one in lists:
        for _, item in one.leaves:
            names.update(dict.fromkeys(_named(item)))
        names.update((some.message_id, None) for some in one.cut)
    waiting = list(names)
    found: dict[str, Message] = {}
    size = 0
    for start in range(0, len(waiting), AT_ONCE):
        for name, message in (yield waiting[start : start + AT_ONCE]).items():
            found[name] = message
            content = message["content"]
            size += len(content) if type(content) is str else len(orjson.dumps(content))
        if size > MOST_BYTES:
            raise TooMuch("too large")
    for one in lists:
        for at, item in one.leaves:
            one.values[at], whole = _whole(item, found)
            if not whole:
                one.lose(at, at + 1)
        for some in one.cut:
            _cut_in(one, some, found.get(some.message_id))
        size += sum(_length(item, found) for _, item in one.leaves)
        if size > 2 * MOST_BYTES:  # one message, named very often
            raise TooMuch("too large")


def _named(item: Mapping[str, Any]) -> list[str]:
    if "message_id" in item:
        return [item["message_id"]]
    return [part["message_id"] for part in item["parts"].values()]


def _length(item: Mapping[str, Any], found: Found) -> int:
    contents = (found[name]["content"] for name in _named(item) if name in found)
    return sum(len(content) for content in contents if type(content) is str)


def _whole(item: Mapping[str, Any], found: Found) -> tuple[Any, bool]:
    """An item with what messages say, and whether all of it was there."""
    if "message_id" in item:
        message = found.get(item["message_id"])
        return (None, False) if message is None else ({"role": message["role"], "content": message["content"]}, True)
    holder, whole = [orjson.loads(orjson.dumps(item["value"]))], True
    for pointer, part in item["parts"].items():
        message = found.get(part["message_id"])
        try:
            if message is None:
                raise KeyError(part["message_id"])
            value = _look_up(message, _steps(part.get("at", CONTENT)))
            if part.get("json"):
                value = _parsed(value)
            steps = [0, *_steps(pointer)]
            inside = _look_up(holder, steps[:-1])
            inside[_index(inside, steps[-1])] = value
        except (KeyError, IndexError, TypeError, ValueError):
            whole = False
    return holder[0], whole


def _cut_in(one: _List, some: _Range, message: Message | None) -> None:
    try:
        items = _parsed(message["content"] if message is not None else None)
        if type(items) is not list or len(items) < some.end:
            raise ValueError("no such list")
    except (TypeError, ValueError):
        one.lose(some.at, some.at + some.end - some.first)
    else:
        one.values[some.at : some.at + some.end - some.first] = items[some.first : some.end]


def _parsed(text: Any) -> Any:
    value = orjson.loads(text)
    if depth_exceeds(value, MAX_DEPTH):
        raise ValueError("too deep")
    return value


def _steps(pointer: str) -> list[Any]:
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _look_up(value: Any, steps: Sequence[Any]) -> Any:
    for step in steps:
        value = value[_index(value, step)]
    return value


def _index(holder: Any, step: Any) -> Any:
    if type(holder) is list:
        index = int(step)
        if not 0 <= index < len(holder):
            raise IndexError(step)
        return index
    if type(holder) is not dict:
        raise TypeError("neither a list nor an object")
    return step
