"""``/openapi.json``: the REST API's own description, made from the same types that validate.

Rule: a schema is written here only where no type exists; what a recorder sends comes from model/payloads.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from ..model.events import STATUSES
from ..model.payloads import ANSWER_SPEC, CANCEL_SPEC, GENERIC, RECORDED, TRACE_ID, TRACE_SPEC
from .services import MAX_ID
from .stream import NDJSON, SSE

_REF = "#/components/schemas/"
_ERRORS = {
    400: "It can't be parsed",
    401: "A token is needed, or another one",
    403: "It comes from where it may not, or its token is not for this",
    404: "There is no such trace",
    409: "It contradicts what is stored",
    410: "The past that was asked for is gone, or of another history",
    412: "The log has moved on",
    413: "Too large",
    422: "It does not validate",
    429: "Too many wrong tokens from this address",
    503: "The log can't be used now",
}

_ANSWERS = {  # the keys that are always there
    "Created": ("trace_id", "cursor", "trace"),
    "Traces": ("traces", "next_page_token"),
    "TraceState": ("trace", "goal_tree", "sub_traces", "pending_inputs", "watchers"),
    "Page": ("events", "next_since_event_id", "cursor", "current_event_id", "first_event_id", "has_more"),
    "Messages": ("messages", "has_more"),
    "Message": ("trace_id", "event_id", "message"),
    "Deleted": ("deleted",),
    "Health": ("status", "version", "epoch"),
    "Ready": ("ready", "degraded", "reasons", "problems"),
    "Renewed": ("trace_id",),
    "Cancelled": ("trace_id", "status"),
    "Answered": ("trace_id", "request_id", "status"),
    "Input": ("trace_id", "request_id", "state"),
    "Inputs": ("inputs", "has_more"),
}


def _error(status: int) -> dict[str, Any]:
    schema = {"application/json": {"schema": {"$ref": _REF + "Error"}}}
    return {"description": _ERRORS[status], "content": schema}


def _call(summary: str, answer: str | None, *errors: int, status: int = 200, **more: Any) -> dict[str, Any]:
    content = {} if answer is None else {"content": {"application/json": {"schema": {"$ref": _REF + answer}}}}
    responses = {str(status): {"description": summary, **content}}
    responses.update({str(code): _error(code) for code in (*errors, 400, 401, 403, 429, 503)})
    return {"summary": summary, "responses": responses, **more}


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema or {"type": "string"}}


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema or {"type": "string"}}


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


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
    schemas["Event"] = {"anyOf": [{"$ref": _REF + name} for name in (*RECORDED, "other_event")]}
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
    return schemas


_LIMIT = _query("limit", "How many", type="integer", minimum=1, maximum=1000)
_NUMBER = {"type": "integer", "minimum": 0, "maximum": MAX_ID}
_ID = {"type": "string", "pattern": f"^{TRACE_ID.pattern}$"}


def _traces() -> dict[str, Any]:
    statuses = "|".join(STATUSES)
    parameters = [
        _LIMIT,
        _query("status", "Only these, with commas", type="string", pattern=f"^(({statuses})(,({statuses}))*)?$"),
        _query("agent_type", "Only of this type of agent"),
        _query("q", "Only with this text in id, task or type of agent"),
        _query("parent_trace_id", "Only sub-traces of this trace"),
        _query("root_trace_id", "Only this trace and what is below it, to any depth"),
        _query("page_token", "The next_page_token of the page before", type="string", pattern="^[0-9]{0,18}$"),
    ]
    spec = _json_body({"$ref": _REF + "TraceSpec"})
    create = _call("Create a trace", "Created", 404, 409, 413, 422, status=201, requestBody=spec)
    create["responses"]["200"] = {**create["responses"]["201"], "description": "It is there already, just as asked for"}
    return {"get": _call("Traces, newest first", "Traces", 422, parameters=parameters), "post": create}


def _events() -> dict[str, Any]:
    event = {"$ref": _REF + "Event"}
    body = _json_body({"anyOf": [event, {"type": "array", "items": event, "minItems": 1}]})
    read = [
        _query(
            "since_event_id",
            "0, an event_id, a cursor <epoch>.<event_id>, -N or latest",
            type="string",
            pattern="^(latest|-?[0-9]{1,18}|[A-Za-z0-9_-]{1,64}[.][0-9]{1,18})?$",
        ),
        _LIMIT,
        _query("types", "Only these events, with commas"),
        _query("follow", "1: NDJSON goes on live"),
        _header("Last-Event-ID", "Where a server-sent event stream resumes"),
    ]
    write = [
        _header("Producer-Id", "Who numbers its events; goes with Producer-Seq", **_ID),
        _header("Producer-Seq", "The number of the batch's first event", **(_NUMBER | {"minimum": 1})),
        _header("Expected-Last-Event-Id", "Append only if the log stands here", **_NUMBER),
    ]
    summary = "The stored events: a page, or with Accept text/event-stream or application/x-ndjson a stream"
    page = _call(summary, "Page", 404, 410, 422, parameters=read)
    page["responses"]["200"]["content"] |= {media: {"schema": {"type": "string"}} for media in (SSE, NDJSON)}
    page["responses"]["204"] = {"description": "A server-sent event stream of an ended trace stands at its end"}
    return {
        "get": page,
        "post": _call(
            "Append events, all or none", "Appended", 404, 409, 412, 413, 422, requestBody=body, parameters=write
        ),
    }


def _control(trace: dict[str, Any]) -> dict[str, Any]:
    one = "/api/traces/{trace_id}"
    request = {"name": "request_id", "in": "path", "required": True, "schema": {"type": "string"}}
    cancel = {**_json_body({"$ref": _REF + "CancelSpec"}), "required": False}
    stop = _call("The recorder is asked to stop", "Cancelled", 404, 409, 422, status=202, requestBody=cancel)
    stop["responses"]["200"] = {**stop["responses"]["202"], "description": "There is no recorder: stopped at once"}
    body = _json_body({"$ref": _REF + "AnswerSpec"})
    return {
        f"{one}/cancel": {"parameters": [trace], "post": stop},
        f"{one}/inputs/{{request_id}}": {
            "parameters": [trace, request],
            "get": _call("How a question stands", "Input", 404),
            "post": _call("Answer a question; the first answer wins", "Answered", 404, 409, 410, 422, requestBody=body),
        },
        "/api/inputs": {"get": _call("Every open question, oldest first", "Inputs", 422, parameters=[_LIMIT])},
    }


def _metrics() -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "summary": "Prometheus",
        "responses": {
            "200": {"description": "The numbers", "content": text},
            **{str(code): _error(code) for code in (401, 403, 429, 503)},
        },
    }


def _paths() -> dict[str, Any]:
    trace = {"name": "trace_id", "in": "path", "required": True, "schema": _ID}
    one = "/api/traces/{trace_id}"
    at = [_query("at_event_id", "As it was after this event", **_NUMBER)]
    of = [_LIMIT, _query("goal_id", "Of this goal"), _query("before", "Of a lower sequence", **_NUMBER)]
    lines = {"required": True, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
    restore = "Put back one trace, or the next part of it, as export wrote it"
    return {
        "/api/traces": _traces(),
        one: {
            "parameters": [trace],
            "get": _call("A trace now, or as it was after an event", "TraceState", 404, 410, 422, parameters=at),
            "delete": _call("Remove a trace and its sub-traces", "Deleted", 404),
        },
        f"{one}/events": {"parameters": [trace], **_events()},
        f"{one}/messages": {
            "parameters": [trace],
            "get": _call("Messages as they now stand", "Messages", 404, 422, parameters=of),
        },
        f"{one}/messages/{{message_id}}": {
            "parameters": [trace, {"name": "message_id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": _call("A message as it now stands, and the event it was added with", "Message", 404),
        },
        f"{one}/heartbeat": {"parameters": [trace], "post": _call("Renew the recorder's lease", "Renewed", 404)},
        **_control(trace),
        "/api/import": {"post": _call(restore, "Appended", 409, 413, 422, requestBody=lines)},
        "/healthz": {"get": _call("The process answers", "Health", security=[])},
        "/metrics": {"get": _metrics()},
        "/readyz": {"get": _call("It can serve; and whether it is degraded, and why", "Ready", security=[])},
    }


@cache
def description() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tracewatch",
            "version": version("tracewatch"),
            "description": "Record AI agents' runs in a replayable log and watch them live. WebSockets: "
            "/api/traces/{trace_id}/record, /api/traces/{trace_id}/watch and /api/watch; see docs/protocol.md.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}, {}],  # none is needed on loopback while none was ever made
    }
