"""crewai: a listener on its event bus, which tells of every step at its start, and of text as it streams.

Rule: where the program has crews traced as OpenTelemetry's spans (OpenInference, Traceloop), these are what is seen.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .spans import resource
from .wire import Span, Wire, as_json, attributes

OTHERS = ("openinference.instrumentation.crewai", "opentelemetry.instrumentation.crewai")
TYPES = (
    "agent",
    "crew",
    "flow",
    "knowledge",
    "llm",
    "llm_guardrail",
    "mcp",
    "memory",
    "reasoning",
    "task",
    "tool_usage",
)
ENDS = ("_completed", "_finished", "_failed", "_error")
LEFT_OUT = ("agent_logs_started",)
MOST_OPEN = 10_000


def join_bus(module: ModuleType, wire: Wire) -> None:
    """Listen to all events that begin or end something."""
    import importlib
    import inspect

    bus: Any = importlib.import_module("crewai.events").crewai_event_bus
    base: Any = importlib.import_module("crewai.events.base_events").BaseEvent
    listener = _Listener(wire)
    for name in TYPES:
        try:
            types = importlib.import_module(f"crewai.events.types.{name}_events")
        except ImportError:
            continue  # another version
        for one in vars(types).values():
            if inspect.isclass(one) and issubclass(one, base) and one.__module__ == types.__name__:
                fields: Any = getattr(one, "model_fields", {})
                kind = fields["type"].default if "type" in fields else None
                if isinstance(kind, str) and listener.wants(kind):
                    bus.on(one)(listener.hear)


class _Listener:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._open: dict[str, tuple[str, Span]] = {}  # by the event that began it: its trace, and what was said

    @staticmethod
    def wants(kind: str) -> bool:
        return kind == "llm_stream_chunk" or (kind.endswith(("_started", *ENDS)) and kind not in LEFT_OUT)

    def hear(self, source: Any, event: Any) -> None:
        try:
            if not any(name in sys.modules for name in OTHERS):
                self._hear(source, event)
        except Exception as error:
            self._wire.failed("crewai", error)

    def _hear(self, source: Any, event: Any) -> None:
        kind = event.type
        if kind == "llm_stream_chunk":
            begun = self._open.get(str(event.parent_event_id))
            if begun is not None and getattr(event, "tool_call", None) is None:
                self._wire.put_text(begun[0], _span_id(event.parent_event_id), str(event.chunk))
            return
        if kind.endswith("_started"):
            self._begin(source, event)
        elif event.started_event_id is not None:
            begun = self._open.pop(str(event.started_event_id), None)
            if begun is not None:
                self._wire.put(_ended, begun[1], event)

    def _begin(self, source: Any, event: Any) -> None:
        above = self._open.get(str(event.parent_event_id))
        trace_id = above[0] if above is not None else event.event_id.replace("-", "")[:32]
        span: Span = {
            "traceId": trace_id,
            "spanId": _span_id(event.event_id),
            "name": _name(source, event),
            "kind": 1,
            "startTimeUnixNano": _nanos(event.timestamp),
            "said": _begun(source, event),
        }
        if above is not None:
            span["parentSpanId"] = _span_id(event.parent_event_id)
        if len(self._open) >= MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        self._open[str(event.event_id)] = (trace_id, span)
        self._wire.put(_started, span)


def _span_id(event_id: str) -> str:
    return str(event_id).replace("-", "")[:16]


def _nanos(at: Any) -> str:
    return str(round(at.timestamp() * 1e6) * 1000)


def _started(span: Span) -> Span:
    made = {key: one for key, one in span.items() if key != "said"}
    said = {
        key: one if isinstance(one, (str, int, float)) or one is None else as_json(one)
        for key, one in span["said"].items()
    }
    return {
        **made,
        "attributes": attributes(said),
        "resource": as_json(attributes(resource().attributes)),
        "scope": "crewai",
    }


def _ended(span: Span, event: Any) -> Span:
    error = getattr(event, "error", None)
    made = _started({**span, "said": {**span["said"], **_over(event)}})
    made["endTimeUnixNano"] = _nanos(getattr(event, "timestamp", None))
    if error is not None or event.type.endswith(("_failed", "_error")):
        made["status"] = {"code": 2, "message": str(error or "failed")}
    else:
        made["status"] = {"code": 1}
    return made


def _name(source: Any, event: Any) -> str:
    kind = event.type.rpartition("_started")[0]
    names = {
        "crew_kickoff": getattr(event, "crew_name", None),
        "task": getattr(event, "task_name", None),
        "agent_execution": getattr(getattr(event, "agent", None), "role", None),
        "lite_agent_execution": (getattr(event, "agent_info", None) or {}).get("role"),
        "flow": getattr(event, "flow_name", None),
        "tool_usage": getattr(event, "tool_name", None),
        "llm_call": getattr(event, "model", None),
    }
    return str(names.get(kind) or kind)[:200]


def _begun(source: Any, event: Any) -> dict[str, Any]:
    """What is known of a step at its start. Values are made text later, in another thread."""
    kind = event.type.rpartition("_started")[0]
    if kind in ("crew_kickoff", "agent_execution", "lite_agent_execution"):
        asked = getattr(event, "task_prompt", None) or getattr(event, "inputs", None)
        if kind == "crew_kickoff" and not asked:
            tasks = getattr(source, "tasks", None) or getattr(getattr(event, "crew", None), "tasks", None) or ()
            asked = "\n".join(str(getattr(one, "description", "")) for one in tasks)
        return {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": _name(source, event),
            "input.value": asked,
        }
    if kind == "llm_call":
        messages = event.messages
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages or ())
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": event.model,
            "gen_ai.input.messages": asked,
            "gen_ai.tool.definitions": list(event.tools) if event.tools else None,
            **{f"gen_ai.request.{name}": getattr(event, name, None) for name in ("temperature", "top_p", "max_tokens")},
        }
    if kind == "tool_usage":
        return {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": event.tool_name,
            "gen_ai.tool.call.arguments": event.tool_args,
        }
    return {"gen_ai.operation.name": kind}


def _over(event: Any) -> dict[str, Any]:
    """What is known of a step at its end."""
    kind = event.type
    if kind.startswith("llm_call"):
        usage = dict(getattr(event, "usage", None) or {})
        return {"gen_ai.output.messages": [_answer(getattr(event, "response", None))], **_usage(usage)}
    if kind.startswith("tool_usage"):
        failure = getattr(event, "failure", None)
        output = getattr(event, "output", None)
        return {"gen_ai.tool.call.result": output if output is None or isinstance(output, str) else as_json(output)} | (
            {"error.message": str(failure)} if failure is not None else {}
        )
    output = getattr(event, "output", None)
    output = getattr(output, "raw", output)
    return {"output.value": output if output is None or isinstance(output, str) else as_json(output)}


def _answer(response: Any) -> dict[str, Any]:
    if (
        isinstance(response, list)
        and response
        and all(hasattr(one, "function") or isinstance(one, dict) for one in response)
    ):
        return {"role": "assistant", "content": "", "tool_calls": response}
    text = response if isinstance(response, str) or response is None else as_json(response)
    return {"role": "assistant", "content": text or ""}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    def first(*names: str) -> int | None:
        return next((usage[name] for name in names if isinstance(usage.get(name), int)), None)

    return {
        "gen_ai.usage.input_tokens": first("prompt_tokens", "input_tokens", "prompt_token_count"),
        "gen_ai.usage.output_tokens": first("completion_tokens", "output_tokens", "candidates_token_count"),
        "gen_ai.usage.cache_read.input_tokens": first("cached_prompt_tokens", "cached_tokens"),
        "gen_ai.usage.reasoning.output_tokens": first("reasoning_tokens"),
        "gen_ai.usage.raw": usage or None,
    }
