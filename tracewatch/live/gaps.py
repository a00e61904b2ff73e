"""A gap as an error, for those who can't be sent a ``gap`` frame: pages and lines."""

from __future__ import annotations

from ..errors import Gap
from ..model.frames import format_cursor
from ..model.state import State


def gap_error(reason: str, state: State, epoch: str) -> Gap:
    """The error for those who can't be sent a ``gap`` frame."""
    resume = state.last_event_id if reason == "ahead" else state.first_event_id - 1
    words = {
        "trimmed": "the events asked for are gone",
        "reset": "the cursor is of another history of this log",
        "ahead": "the cursor is ahead of the log",
    }
    return Gap(
        reason,
        f"{words[reason]}: it holds {state.first_event_id} to {state.last_event_id}; go on from {resume}",
        first_event_id=state.first_event_id,
        current_event_id=state.last_event_id,
        resume_event_id=resume,
        cursor=format_cursor(epoch, resume),
    )
