"""The questions by which coding agents ask leave, as far as their own terminals answer them.

Rule: what the terminal has decided is told by what comes after it: the tool's next hook, its result in the transcript,
      or the end of the turn. It is written as answered by the terminal, and is nothing where somebody was faster.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ..errors import NoSuchMessage, TracewatchError, UnknownTrace
from ..importers.claude_hooks import Permission
from ..log import EventLog
from ..model.canonical import TERMINAL

_TURNS = ("UserPromptSubmit", "Stop", "StopFailure", "SessionEnd")  # after which nothing is asked any more


async def answered_there(log: EventLog, trace_id: str, request_id: str, value: Any) -> None:
    """Write that the terminal has answered."""
    event = {"event": "input_provided", "request_id": request_id, "by": TERMINAL, "value": value}
    await log.append(trace_id, [event])


async def is_over(log: EventLog, trace_id: str, call_id: str | None) -> bool:
    """Whether the tool has ended: what it waited for was decided."""
    if call_id is None:
        return False
    try:
        _, message = await log.message(trace_id, call_id)
    except (NoSuchMessage, UnknownTrace):
        return False
    content = message.get("content")
    ended = not isinstance(content, dict) or bool({"result", "error"} & content.keys())
    return message.get("status") == "complete" and ended


async def close_answered(log: EventLog, asking: dict[str, Permission], body: dict[str, Any]) -> None:
    """Close those of a session's questions that its terminal has answered, as a hook or the log says.

    ``asking``: by request_id; what is closed is taken out. ``body``: the hook's, {} where there is none.
    """
    over = body.get("hook_event_name") in _TURNS and not body.get("agent_id")
    for request_id, asked in list(asking.items()):
        with contextlib.suppress(TracewatchError):
            told = asked.call_id is not None and asked.call_id == body.get("tool_use_id")
            if over or told or await is_over(log, asked.trace_id, asked.call_id):
                went_on = told and body.get("hook_event_name") in ("PostToolUse", "PostToolUseFailure")
                await answered_there(log, asked.trace_id, request_id, "allow" if went_on else None)
                asking.pop(request_id, None)


async def asked_before(log: EventLog, trace_id: str) -> dict[str, Permission]:
    """The questions of a session that the log has open, for a server that has just begun."""
    found: dict[str, Permission] = {}
    questions, _ = await log.inputs(100, below=trace_id)
    for one in questions:
        told = one.get("permission")
        if isinstance(told, dict):
            found[one["request_id"]] = Permission(
                trace_id=one["trace_id"],
                key=one["request_id"],
                tool=str(told.get("tool")),
                given={},
                call_id=told["call_id"] if isinstance(told.get("call_id"), str) else None,
                agent="",
                cwd=None,
                suggestions=[],
            )
    return found
