"""Fingerprints of values, by which what came again is known. Pure."""

from __future__ import annotations

import hashlib
from hashlib import blake2b
from typing import Any

import orjson

from ..model.blobs import is_reference
from .items import Item

LARGE_CHARS = 4096  # the shortest text that may stand beside the log (model/contents.py, CLOSER)


def digest(value: Any) -> str:
    """A fingerprint of any JSON, 16 hexadecimal digits."""
    if not isinstance(value, str):
        value = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    else:
        value = value.encode("utf-8", "surrogatepass")
    return blake2b(value, digest_size=8).hexdigest()


def value_print(value: Any) -> str:
    """The fingerprint of a value, the same whether it stands beside the log or not."""
    if is_reference(value) and "form" not in value:
        return str(value["blob"])
    if isinstance(value, str) and len(value) >= LARGE_CHARS:
        return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
    return digest(value)


def answer_print(content: Any, tool_calls: Any) -> str | None:
    """The fingerprint of a model's answer, by which it is found in a later prompt; None for an empty one."""
    calls = [call for call in tool_calls or () if isinstance(call, dict)]
    names = [call.get("id") or [call.get("name"), call.get("arguments")] for call in calls]
    text = content.strip() if isinstance(content, str) else content if is_reference(content) else ""
    return digest(["assistant", value_print(text), names]) if text or names else None


def print_of(item: Item) -> str:
    """The fingerprint of all that an item says."""
    return digest({name: getattr(item, name) for name in Item.__slots__})
