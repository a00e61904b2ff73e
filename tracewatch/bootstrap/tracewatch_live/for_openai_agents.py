"""openai-agents: a tracing processor of ours beside those that there are, and the text of its models as it streams.

Rule: where the program has its runs traced as OpenTelemetry's spans (OpenInference, Logfire), these are what is seen.
"""

from __future__ import annotations

import datetime
import hashlib
import sys
from types import ModuleType
from typing import Any

from .spans import resource
from .streams import Tee
from .wire import Span, Wire, as_json, attributes

OTHERS = ("openinference.", "logfire.", "opentelemetry.")


def join_tracing(module: ModuleType, wire: Wire) -> None:
    """Add a processor of ours."""
    base: Any = module.TracingProcessor

    class Live(base):  # type: ignore[misc]
        """Tells of each span at its start and at its end."""

        def on_trace_start(self, trace: Any) -> None:
            """A trace is nothing but what its spans have in common."""

        def on_trace_end(self, trace: Any) -> None:
            """Nothing."""

        def on_span_start(self, span: Any) -> None:
            """A step has begun."""
            if not _is_seen_otherwise(module):
                wire.put(_span, span, _given(span.span_data), False, _session(module))

        def on_span_end(self, span: Any) -> None:
            """A step has ended."""
            if not _is_seen_otherwise(module):
                wire.put(_span, span, None, True, _session(module))

        def shutdown(self) -> None:
            """Nothing: the wire is the process's."""

        def force_flush(self) -> None:
            """Nothing waits here."""

    module.add_trace_processor(Live())


def _is_seen_otherwise(module: Any) -> bool:
    provider = module.get_trace_provider()
    if type(provider).__module__.startswith(OTHERS):
        return True
    processors = getattr(getattr(provider, "_multi_processor", None), "_processors", ())
    return any(type(one).__module__.startswith(OTHERS) for one in processors)


def _session(module: Any) -> str | None:
    try:
        found = module.get_current_trace()
        return getattr(found, "group_id", None)
    except Exception:
        return None


def _ids(span: Any) -> tuple[str, str]:
    """OpenTelemetry's ids: of ``trace_<32 hex>`` and ``span_<24 hex>``, which a program may also choose itself."""
    return _hex(span.trace_id, "trace_", 32), _hex(span.span_id, "span_", 16)


def _hex(given: str, prefix: str, size: int) -> str:
    rest = given[len(prefix) :] if given.startswith(prefix) else ""
    if len(rest) >= size and all(one in "0123456789abcdef" for one in rest):
        return rest[:size]
    return hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()[:size]


def _nanos(iso: str | None) -> str:
    if not iso:
        return "0"
    return str(round(datetime.datetime.fromisoformat(iso.replace("Z", "+00:00")).timestamp() * 1e6) * 1000)


def _given(data: Any) -> dict[str, Any]:
    """What is known of a step at its start."""
    kind, name = data.type, getattr(data, "name", None)
    if kind == "agent":
        return {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
    if kind == "function":
        return {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.arguments": getattr(data, "input", None),
        }
    if kind in ("response", "generation"):
        return {"gen_ai.operation.name": "chat", "gen_ai.request.model": getattr(data, "model", None)}
    return {"gen_ai.operation.name": kind, "agents.turn": getattr(data, "turn", None)}


def _span(span: Any, given: dict[str, Any] | None, is_end: bool, session: str | None) -> Span | None:
    data = span.span_data
    said = {**(given if given is not None else _given(data)), "gen_ai.conversation.id": session}
    if is_end:
        said.update(_said(data))
    trace_id, span_id = _ids(span)
    made: Span = {
        "traceId": trace_id,
        "spanId": span_id,
        "name": str(getattr(data, "name", None) or data.type),
        "kind": 1,
        "startTimeUnixNano": _nanos(span.started_at),
        "attributes": attributes(said),
        "resource": as_json(attributes(resource().attributes)),
        "scope": "agents",
    }
    if span.parent_id:
        made["parentSpanId"] = _hex(span.parent_id, "span_", 16)
    if is_end:
        made["endTimeUnixNano"] = _nanos(span.ended_at)
        error = span.error
        message = f"{error.get('message')}: {(error.get('data') or {}).get('error', '')}".rstrip(": ") if error else ""
        made["status"] = {"code": 2, "message": message} if error else {"code": 1}
    return made


def _said(data: Any) -> dict[str, Any]:
    """What is known of a step at its end."""
    if data.type == "function":
        output = getattr(data, "output", None)
        return {"gen_ai.tool.call.result": output if isinstance(output, str) or output is None else as_json(output)}
    if data.type == "response":
        return _response(data)
    if data.type == "generation":
        usage = dict(data.usage or {})
        return {
            "gen_ai.input.messages": as_json(data.input),
            "gen_ai.output.messages": as_json(data.output),
            "gen_ai.request.model": data.model,
            "gen_ai.usage.input_tokens": usage.get("input_tokens"),
            "gen_ai.usage.output_tokens": usage.get("output_tokens"),
            "gen_ai.usage.raw": as_json(usage),
        }
    if data.type in ("agent", "handoff", "guardrail", "custom"):
        told = {**(data.export() or {}), **(getattr(data, "data", None) or {})}
        return {f"agents.{key}": one for key, one in told.items() if key not in ("type", "name") and one is not None}
    return {}


def _response(data: Any) -> dict[str, Any]:
    response = data.response
    given = data.input
    asked = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())
    if response is None:
        return {"gen_ai.input.messages": as_json(asked) if asked else None}
    usage = response.usage
    instructions = getattr(response, "instructions", None)
    return {
        "gen_ai.input.messages": as_json(asked),
        "gen_ai.system_instructions": as_json([{"type": "text", "content": instructions}]) if instructions else None,
        "gen_ai.output.messages": as_json(list(response.output)),
        "gen_ai.request.model": str(response.model),
        "gen_ai.response.id": response.id,
        "gen_ai.tool.definitions": as_json(list(response.tools or ())) if response.tools else None,
        "gen_ai.request.temperature": getattr(response, "temperature", None),
        "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
        "gen_ai.usage.raw": as_json(usage) if usage else None,
    }


def join_streams(module: ModuleType, wire: Wire) -> None:
    """Have the streams of a module's models tell of their text."""
    for name in ("OpenAIResponsesModel", "OpenAIChatCompletionsModel", "LitellmModel"):
        model = vars(module).get(name)
        if model is not None and "stream_response" in vars(model):
            _wrap(model, wire)


def _wrap(model: Any, wire: Wire) -> None:
    begin = model.stream_response

    def stream_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        return Tee(begin(self, *args, **kwargs), _text, _current, wire)

    stream_response.__wrapped__ = begin  # type: ignore[attr-defined]
    model.stream_response = stream_response


def _text(event: Any) -> str | None:
    return event.delta if getattr(event, "type", "") == "response.output_text.delta" else None


def _current() -> tuple[str, str] | None:
    tracing: Any = sys.modules["agents.tracing"]
    span = tracing.get_current_span()
    if span is None or span.span_data.type not in ("response", "generation") or _is_seen_otherwise(tracing):
        return None
    return _ids(span)
