"""The keys of events: one whole number for a trace and an event_id, in the order of both.

Rule: no event_id is above MAX_EVENT_ID (the log refuses them), so the keys of two traces never meet.
"""

from __future__ import annotations

from ...model.canonical import MAX_EVENT_ID

EVENT_ID_BITS = MAX_EVENT_ID.bit_length()
OF_EVENT = f"event_key & {MAX_EVENT_ID}"  # the event_id, in SQL


def event_key(trace_key: int, event_id: int) -> int:
    """The key of an event.

    >>> event_key(1, 2) == (1 << 32) + 2
    True
    """
    return (trace_key << EVENT_ID_BITS) + event_id
