"""Values of an agent that do harm where they can: each a function that makes one, by its name."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import itertools
import pathlib
import sys
import threading
import time
import types
import unittest.mock
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any

MAKERS: dict[str, Callable[[], Any]] = {}


def nasty(make: Callable[[], Any]) -> Callable[[], Any]:
    """Add a value, made by a function or class without arguments."""
    MAKERS[make.__name__] = make
    return make


def boom(*args: Any, **more: Any) -> Any:
    """What the methods of these values do."""
    raise RuntimeError("boom")


for name, value in {
    "none": None,
    "true": True,
    "ellipsis": ...,
    "not_implemented": NotImplemented,
    "huge_integer": 10**10_000,
    "huge_negative": -(10**10_000),
    "big_integer": 2**64,
    "nan": float("nan"),
    "infinity": float("-inf"),
    "complex": 1j,
    "decimal": decimal.Decimal("NaN"),
    "fraction": fractions.Fraction(1, 3),
    "empty": "",
    "surrogate": "a\ud800",
    "controls": "\0\x1b[2J‮\x9b",
    "a_type": int,
    "a_module": sys,
    "a_function": boom,
    "a_path": pathlib.Path("/x"),
    "a_uuid": uuid.UUID(int=7),
    "large_range": range(10**12),
    "odd_keys": {1: 2, None: 3, (1, 2): 4, b"x": 5, 1.5: {"\ud800": 1}},
    "a_set": {1, "x", (2, frozenset({3}))},
    "namespace": types.SimpleNamespace(a=[1], b=object()),
    "proxy_of_mapping": types.MappingProxyType({"a": object()}),
    "an_array": array.array("d", [1.0]),
    "a_view": {"a": object()}.items(),
    "a_mock": None,
}.items():
    MAKERS[name] = lambda value=value: value  # type: ignore[misc]

MAKERS["a_mock"] = unittest.mock.MagicMock
MAKERS["mock_of_str"] = lambda: unittest.mock.MagicMock(spec=str)
MAKERS["mock_of_dict"] = lambda: unittest.mock.MagicMock(spec=dict)
MAKERS["long_text"] = lambda: "é" * 20_000_000
MAKERS["long_bytes"] = lambda: bytes(50_000_000)
MAKERS["long_bytearray"] = lambda: {"a": bytearray(50_000_000), "b": memoryview(bytes(50_000_000))}
MAKERS["long_array"] = lambda: array.array("d", bytes(8 * 5_000_000))
MAKERS["long_list"] = lambda: list(range(2_000_000))
MAKERS["many_texts"] = lambda: [f"{n} {'x' * 1000}" for n in range(100_000)]
MAKERS["many_keys"] = lambda: dict.fromkeys(map(str, range(500_000)))
MAKERS["generator"] = lambda: (n for n in range(3))
MAKERS["endless_generator"] = itertools.count
MAKERS["deque_of_objects"] = lambda: collections.deque([object()] * 1_000_000)


@nasty
def tuple_of_50_000_levels() -> Any:
    deep: Any = ()
    for _ in range(50_000):
        deep = (deep,)
    return deep


@nasty
def list_of_300_levels() -> Any:
    deep: Any = []
    for _ in range(300):
        deep = [deep, {"a": deep}] if not deep else [deep]
    return deep


@nasty
def exception_of_10_000_causes() -> Any:
    error = RuntimeError("first")
    for n in range(10_000):
        error, error.__cause__ = RuntimeError(str(n)), error
    return error


@nasty
def nested_groups() -> Any:
    group: Exception = ValueError("x")
    for _ in range(5_000):
        group = ExceptionGroup("g", [group])
    return group


@nasty
def links_to_parents() -> Any:
    nodes: list[dict[str, Any]] = [{} for _ in range(20)]
    for node in nodes:
        node["all"] = nodes
    return nodes


@nasty
def links_to_parents_with_objects() -> Any:
    nodes = links_to_parents()
    nodes[0]["all"].append(object())
    return nodes


@nasty
def linked_from_many_places() -> Any:
    value: Any = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


@nasty
def a_text_linked_from_many_places() -> Any:
    return [["x" * 1_000_000] * 1000] * 1000


@nasty
def itself() -> Any:
    value: list[Any] = []
    value.append(value)
    mapping = {"list": value}
    mapping["self"] = mapping  # type: ignore[assignment]
    return mapping


@nasty
class ReprRaises:
    __repr__ = __str__ = boom


@nasty
class ReprExits:
    def __repr__(self) -> str:
        raise SystemExit(3)


@nasty
class ReprIsNoText:
    def __repr__(self) -> str:
        return 5  # type: ignore[return-value]


@nasty
class ReprRecurses:
    def __repr__(self) -> str:
        return repr([self])


@nasty
class ReprIsLong:
    def __repr__(self) -> str:
        return "r" * 10_000_000


class Text(str):
    """A text of which no method works."""

    __len__ = __getitem__ = __eq__ = __hash__ = __iter__ = __str__ = __repr__ = encode = strip = boom
    __contains__ = __add__ = __format__ = __ne__ = isascii = startswith = boom


@nasty
class ReprIsAText:
    def __repr__(self) -> str:
        return Text("x")


@nasty
def a_text() -> Any:
    return Text("x")


@nasty
def texts() -> Any:
    return [Text("x"), {"a": Text("y")}]


@nasty
class Number(int):
    __int__ = __index__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __repr__ = __str__ = boom
    __hash__ = int.__hash__


@nasty
class Real(float):
    __float__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __repr__ = is_integer = __int__ = boom
    __hash__ = float.__hash__


@nasty
class NumberRaises:
    __float__ = __int__ = __index__ = __bool__ = __len__ = __eq__ = __hash__ = __iter__ = boom


@nasty
class Mapping(dict):  # type: ignore[type-arg]
    items = keys = values = __iter__ = __len__ = __getitem__ = __bool__ = copy = get = boom


@nasty
class EndlessMapping(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return ((str(n), n) for n in itertools.count())


@nasty
class EndlessList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        return itertools.count()


@nasty
class Bytes(bytes):
    __len__ = __getitem__ = __repr__ = __iter__ = boom


@nasty
class NoClass:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return boom()


@nasty
class Anything:
    """It has every attribute, and each is itself."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self


@nasty
class NoAttributes:
    def __getattribute__(self, name: str) -> Any:
        return boom()


class Meta(type):
    __name__ = property(boom)
    __repr__ = __instancecheck__ = __eq__ = __getattr__ = boom
    __hash__ = type.__hash__


class WithMeta(metaclass=Meta):
    """A class of which nothing works."""


@nasty
def with_meta() -> Any:
    return WithMeta()


@nasty
def a_class_with_meta() -> Any:
    return WithMeta


@nasty
@dataclasses.dataclass
class Node:
    up: Any = None
    down: Any = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.up is None:
            self.down = [Node(self) for _ in range(20)]


@nasty
@dataclasses.dataclass
class FieldRaises:
    a: int = 1

    def __getattribute__(self, name: str) -> Any:
        return boom() if name == "a" else object.__getattribute__(self, name)


class Odd(enum.Enum):
    """An enum whose value is an object, and one whose value raises."""

    OBJECT = ReprRaises()
    RAISES = 1

    @property
    def value(self) -> Any:
        return boom()


@nasty
def an_enum() -> Any:
    return [Odd.OBJECT, Odd.RAISES]


class Zone(datetime.tzinfo):
    """A time zone of which nothing works."""

    utcoffset = dst = tzname = boom


@nasty
def a_time() -> Any:
    return datetime.datetime(2026, 1, 1, tzinfo=Zone())


class Gone:
    """What a dead proxy stood for."""


@nasty
def dead_proxy() -> Any:
    return weakref.proxy(Gone())


@nasty
class ErrorRaises(Exception):
    __str__ = __repr__ = boom


@nasty
class ModelRaises:
    model_json_schema = model_validate = boom


@nasty
def slow_reprs() -> Any:
    class Slow:
        def __repr__(self) -> str:
            time.sleep(0.05)
            return "slow"

    return [Slow() for _ in range(1_000)]


@nasty
def changed_by_its_repr() -> Any:
    grown: list[Any] = []

    class Shrinks:
        def __repr__(self) -> str:
            del grown[1:]
            grown.extend(bytes(10) for _ in range(20_000))
            return "x"

    grown[:] = [Shrinks()] + [str(n) * 10 for n in range(1_000)]
    return grown


@nasty
def changed_by_a_thread() -> Any:
    """A value that another thread changes all the time, in all ways."""
    value: dict[str, Any] = {"list": [], "dict": {}}

    def change() -> None:
        n = 0
        while True:
            n += 1
            value["list"].append([n, Odd.RAISES, object()][n % 3])
            value["dict"][str(n % 1000)] = {"n": n, "own": object()}
            if n % 1000 == 0:
                value["list"].clear()
                value["dict"].clear()

    threading.Thread(target=change, daemon=True).start()
    return value
