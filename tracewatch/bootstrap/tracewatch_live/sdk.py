"""Live starts from OpenTelemetry's SDK: every TracerProvider has a processor that tells of a span at its start.

Rule: an end is sent as well, unless the program's own exporter sends it to us anyway.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .wire import Span, Wire, as_json, attributes

NOT_OURS = ("crewAI-telemetry",)  # services whose spans tell the maker of a library how it is used
_resources: dict[int, Any] = {}  # by identity: the resource, and its JSON


def join_sdk(module: ModuleType, wire: Wire) -> None:
    """Give every provider that is made from now on a processor of ours."""
    provider: Any = module.TracerProvider
    init = provider.__init__
    processor = _processor(module, wire)

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        try:
            name = getattr(self.resource, "attributes", {}).get("service.name")
            if name not in NOT_OURS:
                self.add_span_processor(processor(self))
        except Exception as error:
            wire.failed("opentelemetry.sdk.trace", error)

    patched.__wrapped__ = init  # type: ignore[attr-defined]
    provider.__init__ = patched


def join_grpc(module: ModuleType, wire: Wire) -> None:
    """Have exporters by gRPC to the relay succeed at once: it takes no gRPC, and their spans are told of here.

    Otherwise they would try again and again, and keep the program's exit for seconds.
    """
    mixin: Any = module.OTLPExporterMixin
    name = "_export"
    export = getattr(mixin, name)
    place = wire.base.partition("://")[2].partition("/")[0]

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self, "_result", None)
        if result is not None and str(getattr(self, "_endpoint", "")).startswith(place):
            return result.SUCCESS
        return export(self, *args, **kwargs)

    setattr(mixin, name, patched)


def _processor(module: ModuleType, wire: Wire) -> Any:
    base: Any = module.SpanProcessor

    class Live(base):  # type: ignore[misc]
        """Tells of starts, and of ends that nobody else tells us of."""

        def __init__(self, provider: Any) -> None:
            self._provider = provider

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            """A span has begun."""
            try:
                if span.context.trace_flags.sampled:
                    wire.put(begun, span)
            except Exception as error:
                wire.failed("start", error)

        def on_end(self, span: Any) -> None:
            """A span has ended."""
            try:
                if span.context.trace_flags.sampled:
                    wire.put(_end, span, _sends_to(self._provider, wire.base))
            except Exception as error:
                wire.failed("end", error)

        def shutdown(self) -> None:
            """Nothing: the wire is the process's."""

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            """Nothing waits here."""
            return True

    return Live


def _sends_to(provider: Any, base: str) -> bool:
    """Whether the program's own exporter sends a span of this provider to us."""
    try:
        for one in getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ()):
            inner = getattr(one, "_batch_processor", one)
            exporter = getattr(one, "span_exporter", None) or getattr(inner, "_exporter", None)
            if str(getattr(exporter, "_endpoint", "")).startswith(base):
                return True
    except Exception:
        return False
    return False


def begun(span: Any) -> Span | None:
    """A span of the SDK, or of ours, soon after its start; None if it has ended meanwhile."""
    return None if span.end_time else _span(span)


def _span(span: Any) -> Span:
    context, parent = span.context, span.parent
    made: Span = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "name": span.name,
        "kind": getattr(span.kind, "value", 0) + 1,
        "startTimeUnixNano": str(span.start_time),
        "attributes": attributes(dict(span.attributes or {})),
        "resource": _resource(getattr(span, "resource", None)),
        "scope": str(getattr(getattr(span, "instrumentation_scope", None), "name", "") or "tracewatch.live"),
    }
    if parent is not None and parent.span_id:
        made["parentSpanId"] = f"{parent.span_id:016x}"
    return made


def _end(span: Any, is_sent: bool) -> Span | None:
    return None if is_sent else ended(span)


def ended(span: Any) -> Span:
    """A span of the SDK, or of ours, at its end."""
    made = _span(span)
    made["endTimeUnixNano"] = str(span.end_time)
    status = getattr(span, "status", None)
    if status is not None:
        made["status"] = {"code": status.status_code.value, "message": status.description or ""}
    made["events"] = [
        {"name": one.name, "timeUnixNano": str(one.timestamp), "attributes": attributes(dict(one.attributes or {}))}
        for one in span.events or ()
    ]
    made["links"] = [
        {"traceId": f"{one.context.trace_id:032x}", "spanId": f"{one.context.span_id:016x}"} for one in span.links or ()
    ]
    return made


def _resource(resource: Any) -> str:
    if resource is None:
        return "[]"
    known = _resources.get(id(resource))
    if known is None or known[0] is not resource:
        if len(_resources) > 100:
            _resources.clear()
        known = _resources[id(resource)] = (resource, as_json(attributes(dict(resource.attributes))))
    return str(known[1])
