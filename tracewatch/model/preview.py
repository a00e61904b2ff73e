"""Previews: values cut to so many bytes of JSON, in frames and lists that would be too large with the whole of them.

Rule 1: a preview has the type of the whole: a text is its beginning with ``…``, an object or an array has some of its
        own items. So whoever knows nothing of previews can work with it.
Rule 2: an object with previews in it names their keys in ``cut``, and the whole of it can be asked for.
Rule 3: the work is bounded by the size of the value and not by its form: what is nested deeper than ``DEEPEST`` and
        too large is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

DEEPEST = 3  # levels in which something is kept of an object that is too large
ELLIPSIS = "…"
MOST_CUT = 20  # keys that ``cut`` names
NAMES_BYTES = 256  # about, of them
# The keys of traces, goals, steps, sub-traces and questions that every client reads, so that they are always there
NAMED = frozenset(
    (
        *("trace_id", "task", "agent_type", "parent_trace_id", "parent_goal_id", "root_trace_id", "status"),
        *("is_running", "current_goal_id", "first_event_id", "last_event_id", "total_messages", "total_tokens"),
        *("total_cost", "tree_totals", "created_at", "updated_at", "completed_at", "summary", "error", "metadata"),
        *("id", "description", "reason", "parent_id", "type", "self_stats", "cumulative_stats", "sub_trace_ids"),
        *("stats", "started_event_id", "started_at", "ended_at"),
        *("name", "kind", "step_id", "message_id", "event_id"),
        *("request_id", "question", "options", "schema", "goal_id", "expires_at", "requested_at"),
    )
)


def size_of(value: Any) -> int:
    """The bytes of a value as JSON."""
    return len(orjson.dumps(value))


def preview(value: Any, limit: int, depth: int = 0) -> Any:
    """The value itself if its JSON has at most ``limit`` bytes, else a preview of at most that many.

    >>> preview({"a": 1, "b": "x" * 100}, 40)
    {'a': 1, 'b': 'xxxxxxxx…'}
    """
    size = size_of(value)
    if size <= limit:
        return value
    if isinstance(value, str):
        return _beginning(value, size, limit)
    if not isinstance(value, dict | list):
        return None  # a number has no preview
    kept: Any = {} if isinstance(value, dict) else []
    if depth == DEEPEST:
        return kept
    room = limit - 2
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        own = size_of(key) + 2 if isinstance(value, dict) else 1  # with the colon and the comma
        if room - own < 5:
            break
        shown = preview(item, max(4, (room - own) // 2 if size_of(item) > room - own else room - own), depth + 1)
        used = own + size_of(shown)
        if used > room:
            continue
        room -= used
        if isinstance(kept, dict):
            kept[key] = shown
        else:
            kept.append(shown)
    return kept


def _beginning(text: str, size: int, limit: int) -> str:
    """As much of a text as ``limit`` bytes of JSON hold. ``size``: that of the whole."""
    count = min(len(text), limit)
    while count > 0:
        shown = text[:count] + ELLIPSIS
        size = size_of(shown)
        if size <= limit:
            return shown
        count = min(count - 1, count * limit // size)
    return ""


def shorten(value: Mapping[str, Any], most: int) -> Mapping[str, Any]:
    """An object of the protocol, such as a goal, itself if its JSON has at most ``most`` bytes, else with previews.

    Of its values, those of more than an eighth of ``most`` are previews. Keys that the protocol does not name are left
    out where there is no room for them. ``cut`` names both, beside what it named already.

    >>> shorten({"id": "1", "summary": "x" * 1000}, 200)
    {'id': '1', 'summary': 'xxxxxxxxxxxxxxxxxxxx…', 'cut': ['summary']}
    """
    if size_of(value) <= most:
        return value
    share, room = max(64, most // 8), most - NAMES_BYTES
    shown: dict[str, Any] = {}
    before = value.get("cut")
    cut: list[str] = [str(name) for name in before] if isinstance(before, list) else []
    for key in sorted([key for key in value if key != "cut"], key=lambda key: key not in NAMED):
        shown[key] = preview(value[key], share)
        room -= size_of(key) + size_of(shown[key]) + 2
        if room < 0 and key not in NAMED:
            del shown[key]
    kept = {key: shown[key] for key in value if key in shown}
    cut += [
        key for key in value if key != "cut" and key not in cut and (key not in kept or kept[key] is not value[key])
    ]
    return {**kept, "cut": [key[:64] for key in cut[:MOST_CUT]]}
