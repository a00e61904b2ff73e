"""A dict that is cheap to copy: the states of a trace share what has not changed between them.

Rule 1: a base is shared and never changed; what has changed since stands in a layer above it, and a copy copies that.
Rule 2: a layer that has grown becomes part of a new base. So a copy of n entries costs the root of n, and so does a
        change, spread over many.
Rule 3: it behaves as a dict does, the order of its entries included.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, MutableMapping, ValuesView
from math import isqrt
from typing import Any, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

SMALL = 1024  # entries: a dict of so many is copied in some µs, and is faster in everything else
_GONE: Any = object()  # in a layer: the base's entry was removed


class Layered(MutableMapping[K, V]):
    """A mapping whose ``copy`` does not touch every entry. ``base`` becomes its own: nobody may change it any more."""

    __slots__ = ("_base", "_count", "_layer")

    def __init__(self, base: dict[K, V]) -> None:
        self._base = base
        self._layer: dict[K, V] = {}
        self._count = len(base)

    def copy(self) -> Layered[K, V]:
        """The same entries; what is done to one is not done to the other."""
        if len(self._layer) > max(64, isqrt(len(self._base))):
            self._base, self._layer = self.plain(), {}
        twin = Layered(self._base)
        twin._layer = self._layer.copy()
        twin._count = self._count
        return twin

    def plain(self) -> dict[K, V]:
        """The entries as a dict of their own."""
        merged = {**self._base, **self._layer}
        if len(merged) != self._count:
            merged = {key: value for key, value in merged.items() if value is not _GONE}
        return merged

    def __getitem__(self, key: K) -> V:
        value: Any = self._layer.get(key)
        if value is None and key not in self._layer:
            return self._base[key]
        if value is _GONE:
            raise KeyError(key)
        found: V = value
        return found

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | T) -> V | T: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        value = self._layer.get(key)
        if value is None and key not in self._layer:
            return self._base.get(key, default)
        return default if value is _GONE else value

    def __contains__(self, key: object) -> bool:
        if key in self._layer:
            return self._layer[key] is not _GONE
        return key in self._base

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self:
            if key in self._base:  # it was removed: it comes in again as the last one
                self._base, self._layer = self.plain(), {}
            self._count += 1
        self._layer[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._count -= 1
        if key in self._base:
            self._layer[key] = _GONE
        else:
            del self._layer[key]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[K]:
        return iter(self.plain())

    def keys(self) -> KeysView[K]:
        """The keys, as of now."""
        return self.plain().keys()

    def values(self) -> ValuesView[V]:
        """The values, as of now."""
        return self.plain().values()

    def items(self) -> ItemsView[K, V]:
        """The entries, as of now."""
        return self.plain().items()

    def __repr__(self) -> str:
        return f"Layered({self.plain()!r})"


def shared(values: MutableMapping[K, V]) -> MutableMapping[K, V]:
    """``values`` in a form that is cheap to copy (``values.copy()``). The caller has no other use for ``values``."""
    return Layered(values) if type(values) is dict and len(values) > SMALL else values
