"""Spans for a program whose frameworks trace by OpenTelemetry's API, and that has configured no tracer.

Rule: no provider is set, so one that the program sets later, or has set, is used as if we were not there.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from .sdk import begun, ended
from .wire import Wire

FRAMEWORKS = (  # that trace their agents without being asked to, as soon as there is a tracer
    *("pydantic_ai", "google.adk", "strands", "mcp", "autogen_core", "semantic_kernel", "agent_framework", "haystack"),
)
_random = random.Random()  # of our own: a seed that the program sets must not repeat ids
_resource: list[Any] = []


def join_api(module: ModuleType, wire: Wire) -> None:
    """Have tracers of the API that would do nothing make spans of ours."""
    proxy: Any = module.ProxyTracer
    init = proxy.__init__
    api: Any = module
    span_class = type("LiveSpan", (LiveSpan, api.Span), {"api": api, "wire": wire})
    tracer = type("LiveTracer", (LiveTracer, api.Tracer), {"api": api, "span_class": span_class})

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        name = args[0] if args else kwargs.get("instrumenting_module_name", "")
        self._noop_tracer = tracer(self._noop_tracer, str(name))

    proxy.__init__ = patched
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_random.seed)


def resource() -> Any:
    """What is said of this process, as the SDK would say it."""
    if not _resource:
        said = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or "agent"}
        for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
            name, _, given = pair.partition("=")
            if given.strip():
                said.setdefault(name.strip(), given.strip())
        said["process.pid"] = str(os.getpid())
        _resource.append(SimpleNamespace(attributes=said))
    return _resource[0]


class LiveSpan:
    """What the SDK's span is to a framework: it takes what it is told and is sent at its start and its end."""

    api: Any
    wire: Any

    def __init__(
        self,
        name: str,
        parent: Any,
        kind: Any,
        given: dict[str, Any],
        links: list[Any],
        start_time: int | None,
        scope: str,
    ) -> None:
        self.name, self.parent, self.kind, self.links = name, parent, kind, links
        self.attributes: dict[str, Any] = {key: one for key, one in given.items() if one is not None}
        self.events: list[Any] = []
        self.status: Any = None
        self.start_time = start_time or time.time_ns()
        self.end_time: int | None = None
        self.resource, self.instrumentation_scope = resource(), SimpleNamespace(name=scope)
        trace_id = parent.trace_id if parent is not None else _random.getrandbits(128) or 1
        self.context = self.api.SpanContext(
            trace_id, _random.getrandbits(64) or 1, False, self.api.TraceFlags(self.api.TraceFlags.SAMPLED)
        )
        self.wire.put(begun, self)

    def get_span_context(self) -> Any:
        """Its ids."""
        return self.context

    def is_recording(self) -> bool:
        """Whether it has not ended."""
        return self.end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Say something of it."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Any) -> None:
        """Say some things of it."""
        if self.end_time is None:
            self.attributes = {**self.attributes, **{k: v for k, v in attributes.items() if v is not None}}

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Something happened within it."""
        if self.end_time is None:
            at = timestamp or time.time_ns()
            self.events.append(SimpleNamespace(name=name, attributes=dict(attributes or {}), timestamp=at))

    def add_link(self, context: Any, attributes: Any = None) -> None:
        """It has to do with another one."""
        self.links.append(SimpleNamespace(context=context))

    def update_name(self, name: str) -> None:
        """Call it otherwise."""
        self.name = name

    def set_status(self, status: Any, description: str | None = None) -> None:
        """How it went: a Status, or a code and words."""
        is_code = isinstance(status, self.api.StatusCode)
        self.status = SimpleNamespace(status_code=status, description=description) if is_code else status

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """An exception was raised within it."""
        import traceback

        kind = type(exception)
        lines = traceback.format_exception(kind, exception, exception.__traceback__)
        said = {
            "exception.type": f"{kind.__module__}.{kind.__qualname__}".replace("builtins.", ""),
            "exception.message": str(exception),
            "exception.stacktrace": "".join(lines),
        }
        self.add_event("exception", {**said, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """It has ended."""
        if self.end_time is None:
            self.end_time = end_time or time.time_ns()
            self.wire.put(ended, self)


class LiveTracer:
    """Makes spans where a known framework is loaded, else what the API would. The API's own class stands beside it."""

    api: Any
    span_class: Any

    def __init__(self, noop: Any, name: str) -> None:
        self._noop, self._name = noop, name

    def start_span(
        self,
        name: str,
        context: Any = None,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Any:
        """A span of ours."""
        if not any(one in sys.modules for one in FRAMEWORKS):
            return self._noop.start_span(name, context)
        parent = self.api.get_current_span(context).get_span_context()
        return self.span_class(
            name,
            parent if parent is not None and parent.is_valid else None,
            kind if kind is not None else self.api.SpanKind.INTERNAL,
            dict(attributes or {}),
            list(links or ()),
            start_time,
            self._name,
        )

    @contextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Any = None,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[Any]:
        """The same, as the current one."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with self.api.use_span(
            span,
            end_on_exit=end_on_exit,
            record_exception=record_exception,
            set_status_on_exception=set_status_on_exception,
        ):
            yield span
