"""``/openapi.json``: how the REST API is described, in OpenAPI 3.1. The routes are in routes.py.

Rule: a schema is written here only where no type exists; what clients send is described by the types of
      model/payloads that validate it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from ..model.canonical import STATUSES
from ..model.payloads import ANSWER_SPEC, CANCEL_SPEC, GENERIC, RECORDED, TRACE_ID, TRACE_SPEC
from .http import JSON, MAX_ID, MAX_LIMIT

_REF = "#/components/schemas/"
_ERRORS = {
    400: "It can't be parsed",
    401: "A token is needed, or another one",
    403: "It comes from where it may not, or its token is not for this",
    404: "There is no such trace",
    408: "The body stopped coming",
    409: "It contradicts what is stored",
    410: "The past that was asked for is gone, or of another history",
    412: "The log has moved on",
    413: "Too large",
    422: "It does not validate",
    429: "Too many wrong tokens from this address",
    503: "The log can't be used now",
}
_USUAL_ERRORS = (400, 401, 403, 429, 503)  # of any route
_BODY_ERRORS = (408, 413)  # of any route with a body
_ANSWERS = {  # the keys that are always there
    "Created": ("trace_id", "cursor", "trace"),
    "Hits": ("hits", "traces", "next_page_token", "index", "epoch", "ts"),
    "Traces": ("traces", "next_page_token", "epoch", "ts"),
    "TraceState": ("trace", "goal_tree", "sub_traces", "pending_inputs", "watchers", "epoch", "cursor", "ts"),
    "Page": ("events", "next_since_event_id", "cursor", "current_event_id", "first_event_id", "has_more"),
    "Messages": ("messages", "has_more", "epoch", "ts"),
    "Message": ("trace_id", "event_id", "message", "epoch", "ts"),
    "Stored": ("trace_id", "sha256", "bytes", "media_type"),
    "Deleted": ("deleted",),
    "Health": ("status", "version", "epoch", "ts"),
    "Ready": ("ready", "degraded", "reasons", "problems"),
    "Renewed": ("trace_id", "cancel_requested", "inputs"),
    "Cancelled": ("trace_id", "status"),
    "Answered": ("trace_id", "request_id", "status"),
    "Input": ("trace_id", "request_id", "state", "epoch", "ts"),
    "Inputs": ("inputs", "has_more", "epoch", "ts"),
}
_AT_TIMES: dict[str, dict[str, Any]] = {  # keys that are there where there is something to say
    "TraceState": {"steps": {"type": "array"}, "in_flight": {"type": "integer"}},
    "Message": {"prompt": {"type": ["object", "null"]}},
    "Inputs": {"next_page_token": {"type": "string"}},
}

# --- the words to describe a route with -------------------------------------------------------------------------

Schema = Mapping[str, Any]
Content = Mapping[str, Any]  # of a body: its schema by media type
TEXT: Schema = {"type": "string"}
BYTES: Schema = {"type": "string", "format": "binary"}
NUMBER: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_ID}
ID: Schema = {"type": "string", "pattern": f"^{TRACE_ID.pattern}$"}


def ref(name: str) -> Schema:
    """The schema that ``components`` has under this name."""
    return {"$ref": _REF + name}


def content(schema: Schema, *media: str) -> Content:
    """A body of this schema, in any of these media types (JSON if none is named)."""
    return {one: {"schema": schema} for one in media or (JSON,)}


def query(name: str, text: str, schema: Schema = TEXT) -> Schema:
    """A parameter in the query."""
    return {"name": name, "in": "query", "description": text, "schema": schema}


def header(name: str, text: str, schema: Schema = TEXT) -> Schema:
    """A parameter in a header."""
    return {"name": name, "in": "header", "description": text, "schema": schema}


LIMIT = query("limit", "How many", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT})
STATUS = query(
    "status",
    "Only these, with commas",
    {"type": "string", "pattern": "^(({0})(,({0}))*)?$".format("|".join(STATUSES))},
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is no error, and its body."""

    text: str
    content: Content = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """What ``/openapi.json`` says of a route: what it takes, and every status it answers with."""

    summary: str
    content: Content  # of the usual answer, whose status is ``status``
    errors: Sequence[int] = ()  # besides those of any route, and of any with a body
    status: int = 200
    others: Mapping[int, Reply] = field(default_factory=dict)  # other answers that are no errors, by status
    body: Content | None = None
    body_required: bool = True
    parameters: Sequence[Schema] = ()  # those of the path are known from the path

    def described(self, *, public: bool) -> dict[str, Any]:
        """The Operation Object of OpenAPI; ``public``: no token is ever needed."""
        codes = sorted({*self.errors, *_USUAL_ERRORS, *(_BODY_ERRORS if self.body is not None else ())})
        errors = {code: Reply(_ERRORS[code], content(ref("Error"))) for code in codes}
        replies = {self.status: Reply(self.summary, self.content), **self.others, **errors}
        answers = {
            str(status): {"description": reply.text, **({"content": reply.content} if reply.content else {})}
            for status, reply in replies.items()
        }
        described: dict[str, Any] = {"summary": self.summary, "responses": answers}
        if self.body is not None:
            described["requestBody"] = {"required": self.body_required, "content": self.body}
        if self.parameters:
            described["parameters"] = self.parameters
        if public:
            described["security"] = []
        return described


# --- the document ----------------------------------------------------------------------------------------------


def _path_parameters(template: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": ID if name == "trace_id" else TEXT}
        for name in re.findall(r"{(\w+)}", template)
    ]


def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}

    def add(name: str, adapter: Any) -> None:
        schema = adapter.json_schema(ref_template=_REF + "{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema

    for name, adapter in RECORDED.items():
        add(name, adapter)
        schemas[name]["properties"]["event"] = {"const": name}
    add("other_event", GENERIC)
    add("TraceSpec", TRACE_SPEC)
    add("CancelSpec", CANCEL_SPEC)
    add("AnswerSpec", ANSWER_SPEC)
    whole = {"type": "integer", "minimum": 0}
    some = {"type": "object", "additionalProperties": True}
    schemas["Event"] = {"anyOf": [ref(name) for name in (*RECORDED, "other_event")]}
    schemas["Error"] = {
        "type": "object",
        "required": ["error", "message", "details"],
        "properties": {
            "error": {"type": "string"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": some},
        },
    }
    schemas["Appended"] = {
        "type": "object",
        "required": ["first_event_id", "last_event_id", "duplicates"],
        "properties": {
            "first_event_id": {"type": ["integer", "null"]},
            "last_event_id": whole,
            "duplicates": whole,
        },
    }
    for name, keys in _ANSWERS.items():
        schemas[name] = {"type": "object", "required": list(keys)}
        if name in _AT_TIMES:
            schemas[name]["properties"] = _AT_TIMES[name]
    return schemas


def document(operations: Iterable[tuple[str, str, Operation, bool]], sockets: Sequence[str]) -> dict[str, Any]:
    """The OpenAPI 3.1 document.

    ``operations``: path, method, description of each route, and whether it never needs a token. ``sockets``: the paths
    of the WebSockets, which OpenAPI has no words for.
    """
    paths: dict[str, Any] = {}
    for path, method, operation, public in operations:
        template = path.replace(":path}", "}")  # OpenAPI knows nothing of Starlette's convertors
        if template not in paths:
            shared = _path_parameters(template)
            paths[template] = {"parameters": shared} if shared else {}
        paths[template][method.lower()] = operation.described(public=public)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tracewatch",
            "version": version("tracewatch"),
            "description": "Record AI agents' runs in a replayable log and watch them live. WebSockets: "
            f"{', '.join(sockets[:-1])} and {sockets[-1]}; see docs/protocol.md.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}, {}],  # none is needed on loopback while none was ever made
    }
