"""pydantic-ai: its own instrumentation is switched on, and the text of its models is told of as it streams."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .streams import Tee
from .wire import Wire


def join_agent(module: ModuleType, wire: Wire) -> None:
    """Have all agents traced whose user has not said otherwise."""
    agent: Any = module.Agent
    if not getattr(agent, "_instrument_default", False):
        agent.instrument_all()


def join_streams(module: ModuleType, wire: Wire) -> None:
    """Have the streams of models tell of their text."""
    stream: Any = module.StreamedResponse
    iterate = stream.__aiter__

    def patched(self: Any) -> Any:
        return Tee(iterate(self), _text, _current, wire)

    stream.__aiter__ = patched


def _text(event: Any) -> str | None:
    """The text in an event of a stream."""
    kind = getattr(event, "event_kind", "")
    part = getattr(event, "part", None) if kind == "part_start" else getattr(event, "delta", None)
    if kind == "part_start" and getattr(part, "part_kind", "") == "text":
        return str(getattr(part, "content", ""))
    if kind == "part_delta" and getattr(part, "part_delta_kind", "") == "text":
        return str(getattr(part, "content_delta", ""))
    return None


def _current() -> Any:
    """The ids of the span of the model call."""
    api: Any = sys.modules["opentelemetry.trace"]
    span = api.get_current_span()
    given = getattr(span, "attributes", None) or {}
    if given.get("gen_ai.operation.name") != "chat":
        return None
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"
