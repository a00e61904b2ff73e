"""The fields of a trace as a recorder gives them, made to fit the server's limits: no value of the agent's raises.

Rule: a value that a field can't hold costs that field its value, or becomes text, and never the trace.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
import time
from itertools import islice
from types import EllipsisType
from typing import Any

import orjson

from ..model import fit
from .encode import dumps, guarded, moment_of, name_of, number_of, words

_NOT_AN_ID = re.compile(r"[^A-Za-z0-9._:@-]")
_TAGS = 64  # of a trace, as the protocol has it
_AGENT_S = 0.25  # for code of the agent's in all tags together
_TAG_CHARS = 128
_log = logging.getLogger("tracewatch")


def new_trace_id() -> str:
    """A new trace_id: the time in milliseconds, so that ids are ordered, and 40 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(5)}"


def spec_of(
    task: Any,
    agent_type: Any,
    trace_id: Any,
    parent_trace_id: Any,
    parent_goal_id: Any,
    metadata: Any,
    lease_s: Any,
    **belongs: Any,
) -> dict[str, Any]:
    """The body of ``POST /api/traces``. ``belongs``: session_id, user_id and tags."""
    spec: dict[str, Any] = {
        "trace_id": trace_id_of(trace_id) or new_trace_id(),
        "task": fit.task(words(task)),
        "agent_type": name_of(agent_type),
        "parent_trace_id": trace_id_of(parent_trace_id),
        "parent_goal_id": parent_goal_id if parent_goal_id is None else name_of(parent_goal_id),
        "lease_s": min(number_of(fit.amount, math.inf, lease_s) or 0, 86_400) or None,
        "metadata": None if metadata is None else _metadata(metadata) or None,
    }
    if spec["parent_trace_id"] is not None:  # in the parent's log, which may hear of it late
        spec["started_at"] = moment_of(time.time())
    found = {key: value for key, value in spec.items() if value is not None}
    return found | {key: value for key, value in changes_of(**belongs).items() if value not in (None, [])}


def changes_of(
    task: Any = None,
    tags: Any = None,
    metadata: Any = None,
    session_id: Any = ...,
    user_id: Any = ...,
    started_at: Any = None,
) -> dict[str, Any]:
    """The fields of ``trace_updated``: those that are given. A session_id or user_id of None takes it away."""
    changes: dict[str, Any] = {}
    if task is not None:
        changes["task"] = fit.task(words(task))
    if tags is not None:
        changes["tags"] = _tags(tags)
    for key, given in (("session_id", session_id), ("user_id", user_id)):
        if not issubclass(type(given), EllipsisType):
            changes[key] = None if given is None else name_of(given)
    if metadata is not None:
        changes["metadata"] = _metadata(metadata)
    began = moment_of(started_at)
    if began is not None:
        changes["started_at"] = began
    return changes


def trace_id_of(given: Any) -> str | None:
    """A given trace_id, in the characters that it may have; None if there is none."""
    text = "" if given is None else words(given)
    if not text:
        return None
    trace_id = _NOT_AN_ID.sub("_", text)[:128]
    if trace_id != text or not issubclass(type(given), str):
        _log.warning("%r is no trace_id (1-128 of A-Z a-z 0-9 . _ : @ -): %s is used", text[:1000], trace_id)
    return trace_id


def _tags(given: Any) -> list[str]:
    """Tags of 1-128 characters, each once. A single text is one tag."""
    if issubclass(type(given), (str, bytes, bytearray, dict)):
        given = [given]
    items: list[Any] = guarded(lambda: list(islice(given, 1000)), [given])
    tags: dict[str, None] = {}
    until = time.monotonic() + _AGENT_S
    for item in items:
        if type(item) is str or time.monotonic() < until:
            tags[words(item, 10_000).strip()[:_TAG_CHARS]] = None
    return [tag for tag in tags if tag][:_TAGS]


def _metadata(given: Any) -> dict[str, Any]:
    found = orjson.loads(dumps(given))  # its truth is the agent's code, and may raise
    if not found:
        return {}
    kept, rest = fit.split_metadata(found if isinstance(found, dict) else {"metadata": found}, fit.EVENT_BYTES)
    return kept | ({"shortened": fit.marker(fit.json_bytes(rest))} if rest else {})
