"""Every route of the server, once: method, path, handler, the scope it needs and its description.

Rule 1: ``ROUTES`` is the only list of routes. The application's routes, the check of tokens, ``/openapi.json`` and the
        names of the routes in the metrics are derived from it.
Rule 2: no field of ``Route`` has a default. A route without a scope, or without a description, can't be written.
Rule 3: no request fits two paths, so that the order means nothing but the order in ``/openapi.json``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import orjson
from starlette import routing
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from ..log.views import ORDERS
from . import blobs, control, hooks, langsmith, otlp, page, record, rest, search, stream, watch
from .auth.scopes import ADMIN, CONTROL, INGEST, METRICS, PUBLIC, READ, READ_OR_WRITE, WRITE, Guard, Need
from .http import MAX_SEARCHED, NDJSON, SSE, json_response
from .lists import MAX_NAME, MAX_TAGS
from .metrics import exposition
from .openapi import BYTES, ID, LIMIT, NUMBER, STATUS, TEXT, Operation, Reply, content, document, header, query, ref

Handler = Callable[[Request], Awaitable[Response]] | Callable[[WebSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Instead of a description for ``/openapi.json``: where the route is described."""

    place: str


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. ``WS``: a WebSocket, whose handler takes a WebSocket instead of a Request."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "WS"]  # GET answers HEAD as well
    path: str  # in Starlette's words
    handler: Handler
    need: Need
    described: Operation | Elsewhere


async def openapi(request: Request) -> Response:
    """``GET /openapi.json``."""
    return json_response(orjson.dumps(description()))


ONE = "/api/traces/{trace_id}"
SOUGHT = {"type": "string", "maxLength": MAX_SEARCHED}
NAME = {"type": "string", "maxLength": MAX_NAME}
NAMES = {"type": "array", "items": NAME, "maxItems": MAX_TAGS}
PROTOCOL = Elsewhere("docs/protocol.md")
OTLP = LANGSMITH = Elsewhere("docs/ingest.md")
FOR_BROWSERS = Elsewhere("web/README.md")
ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/traces",
        rest.list_traces,
        READ,
        Operation(
            "Traces, newest first",
            content(ref("Traces")),
            (422,),
            parameters=[
                LIMIT,
                STATUS,
                query("agent_type", "Only of this type of agent", NAME),
                query("q", "Only with this text in id, task or type of agent", SOUGHT),
                query("filter", "Only what passes this filter, as status:failed took>20s login", SOUGHT),
                query("parent_trace_id", "Only sub-traces of this trace", NAME),
                query("root_trace_id", "Only this trace and what is below it, to any depth", NAME),
                query("tag", "Only with this tag; given several times: with all of them", NAMES),
                query("session_id", "Only of this session", NAME),
                query("user_id", "Only of this user", NAME),
                query("model", "Only with a message of this model", NAME),
                query("error", "Only with an error that says this, or * for any error", SOUGHT),
                query("order", "By when they began, or by when something happened last", {"enum": list(ORDERS)}),
                query(
                    "page_token",
                    "The next_page_token of the page before, which had the same order",
                    {"type": "string", "pattern": "^([0-9]{0,18}|[sa][0-9TZ:.-]{0,40}_[0-9]{1,18})$"},
                ),
            ],
        ),
    ),
    Route(
        "POST",
        "/api/traces",
        rest.create_trace,
        WRITE,
        Operation(
            "Create a trace",
            content(ref("Created")),
            (404, 409, 422),
            status=201,
            others={200: Reply("It is there already, just as asked for", content(ref("Created")))},
            body=content(ref("TraceSpec")),
        ),
    ),
    Route(
        "GET",
        ONE,
        rest.get_trace,
        READ,
        Operation(
            "A trace now, or as it was after an event",
            content(ref("TraceState")),
            (404, 410, 422),
            parameters=[query("at_event_id", "As it was after this event", NUMBER)],
        ),
    ),
    Route(
        "DELETE",
        ONE,
        rest.delete_trace,
        ADMIN,
        Operation("Remove a trace and its sub-traces", content(ref("Deleted")), (404,)),
    ),
    Route(
        "GET",
        f"{ONE}/events",
        stream.get_events,
        READ,
        Operation(
            "The stored events: a page, or with Accept text/event-stream or application/x-ndjson a stream",
            {**content(ref("Page")), **content(TEXT, SSE, NDJSON)},
            (404, 410, 422),
            others={204: Reply("A server-sent event stream of an ended trace stands at its end")},
            parameters=[
                query(
                    "since_event_id",
                    "0, an event_id, a cursor <epoch>.<event_id>, -N or latest",
                    {"type": "string", "pattern": "^(latest|-?[0-9]{1,18}|[A-Za-z0-9_-]{1,64}[.][0-9]{1,18})?$"},
                ),
                LIMIT,
                query("types", "Only these events, with commas"),
                query("follow", "1: NDJSON goes on live"),
                header("Last-Event-ID", "Where a server-sent event stream resumes"),
            ],
        ),
    ),
    Route(
        "POST",
        f"{ONE}/events",
        rest.append_events,
        WRITE,
        Operation(
            "Append events, all or none",
            content(ref("Appended")),
            (404, 409, 412, 422),
            body=content({"anyOf": [ref("Event"), {"type": "array", "items": ref("Event"), "minItems": 1}]}),
            parameters=[
                header("Producer-Id", "Who numbers its events; goes with Producer-Seq", ID),
                header("Producer-Seq", "The number of the batch's first event", {**NUMBER, "minimum": 1}),
                header("Expected-Last-Event-Id", "Append only if the log stands here", NUMBER),
            ],
        ),
    ),
    Route(
        "GET",
        f"{ONE}/messages",
        rest.get_messages,
        READ,
        Operation(
            "Messages as they now stand",
            content(ref("Messages")),
            (404, 422),
            parameters=[LIMIT, query("goal_id", "Of this goal"), query("before", "Of a lower sequence", NUMBER)],
        ),
    ),
    Route(
        "GET",
        f"{ONE}/messages/{{message_id:path}}",
        rest.get_message,
        READ,
        Operation(
            "A message as it now stands, and the event it was added with",
            content(ref("Message")),
            (404, 422),
            parameters=[query("prompt", "1: with all that its model call was asked", NUMBER)],
        ),
    ),
    Route(
        "GET",
        f"{ONE}/blobs/{{sha256}}",
        blobs.get_blob,
        READ,
        Operation(
            "Big or binary content of a trace, or a range of it",
            content(BYTES, "*/*"),
            (404,),
            others={
                206: Reply("The range that was asked for", content(BYTES, "*/*")),
                304: Reply("What the client has (If-None-Match) is it"),
                416: Reply("It has no such range"),
            },
            parameters=[header("Range", "bytes=first-last: only these bytes")],
        ),
    ),
    Route(
        "PUT",
        f"{ONE}/blobs/{{sha256}}",
        blobs.put_blob,
        WRITE,
        Operation(
            "Store big or binary content, for events to name",
            content(ref("Stored")),
            (404, 422),
            status=201,
            others={200: Reply("The trace has it already", content(ref("Stored")))},
            body=content(BYTES, "application/octet-stream"),
            body_required=False,
        ),
    ),
    Route(
        "POST",
        f"{ONE}/heartbeat",
        record.heartbeat,
        WRITE,
        Operation("Renew the recorder's lease, and see its commands", content(ref("Renewed")), (404,)),
    ),
    Route(
        "POST",
        f"{ONE}/cancel",
        control.cancel_trace,
        CONTROL,
        Operation(
            "The recorder is asked to stop",
            content(ref("Cancelled")),
            (404, 409, 422),
            status=202,
            others={200: Reply("There is no recorder: stopped at once", content(ref("Cancelled")))},
            body=content(ref("CancelSpec")),
            body_required=False,
        ),
    ),
    Route(
        "GET",
        f"{ONE}/inputs/{{request_id:path}}",
        control.get_input,
        READ_OR_WRITE,  # a recorder is told the answers to its questions anyway, down its socket
        Operation("How a question stands", content(ref("Input")), (404,)),
    ),
    Route(
        "POST",
        f"{ONE}/inputs/{{request_id:path}}",
        control.answer_input,
        CONTROL,
        Operation(
            "Answer a question; the first answer wins",
            content(ref("Answered")),
            (404, 409, 410, 422),
            body=content(ref("AnswerSpec")),
        ),
    ),
    Route(
        "GET",
        "/api/inputs",
        control.list_inputs,
        READ,
        Operation(
            "Every open question, oldest first",
            content(ref("Inputs")),
            (422,),
            parameters=[LIMIT, query("page_token", "The next_page_token of the page before")],
        ),
    ),
    Route(
        "GET",
        "/api/search",
        search.search,
        READ,
        Operation(
            "Text in everything: messages, tools, errors, tasks, goals, tags; newest first",
            content(ref("Hits")),
            (422,),
            parameters=[
                {**query("q", 'Words, "phrases", prefixes*, -words, and fields of a filter', SOUGHT), "required": True},
                query("trace_id", "Only in this trace and its sub-traces", ID),
                query("limit", "How many", {"type": "integer", "minimum": 1, "maximum": search.MAX_HITS}),
                query("per_trace", "Of one trace", {"type": "integer", "minimum": 1, "maximum": search.MAX_HITS}),
                query("page_token", "The next_page_token of the page before", {"pattern": "^[0-9]{0,19}$", **TEXT}),
            ],
        ),
    ),
    Route(
        "POST",
        "/api/import",
        rest.import_trace,
        WRITE,
        Operation(
            "Put back one trace, or the next part of it, as export wrote it",
            content(ref("Appended")),
            (409, 422),
            body=content(TEXT, NDJSON),
        ),
    ),
    Route("WS", f"{ONE}/record", record.record, WRITE, PROTOCOL),
    Route("WS", "/api/record", record.record_many, WRITE, PROTOCOL),
    Route("WS", f"{ONE}/watch", watch.watch_trace, READ, PROTOCOL),
    Route("WS", "/api/watch", watch.watch_many, READ, PROTOCOL),
    Route("GET", "/healthz", rest.healthz, PUBLIC, Operation("The process answers", content(ref("Health")))),
    Route(
        "GET",
        "/metrics",
        exposition.metrics,
        METRICS,
        Operation("The numbers, in Prometheus's text format", content(TEXT, "text/plain")),
    ),
    Route(
        "GET",
        "/readyz",
        rest.readyz,
        PUBLIC,
        Operation("It can serve; and whether it is degraded, and why", content(ref("Ready"))),
    ),
    Route("POST", "/api/hooks/{agent}", hooks.hook, INGEST, OTLP),
    Route("POST", "/v1/traces", otlp.traces, INGEST, OTLP),
    Route("POST", "/v1/logs", otlp.logs, INGEST, OTLP),
    Route("POST", "/v1/metrics", otlp.metrics, INGEST, OTLP),
    Route("GET", "/v1/info", otlp.info, INGEST, OTLP),
    Route("GET", "/info", langsmith.info, PUBLIC, LANGSMITH),
    Route("POST", "/runs/multipart", langsmith.multipart, INGEST, LANGSMITH),
    Route("POST", "/runs/batch", langsmith.batch, INGEST, LANGSMITH),
    Route("POST", "/runs", langsmith.post_run, INGEST, LANGSMITH),
    Route("PATCH", "/runs/{run_id:uuid}", langsmith.patch_run, INGEST, LANGSMITH),
    Route("POST", "/feedback", langsmith.feedback, INGEST, LANGSMITH),
    Route("GET", "/openapi.json", openapi, PUBLIC, Elsewhere("OpenAPI 3.1")),
    Route("GET", "/static/{name}", page.asset, PUBLIC, FOR_BROWSERS),
    Route("GET", "/traces/{trace_id}", page.page, PUBLIC, FOR_BROWSERS),
    Route("GET", "/search", page.page, PUBLIC, FOR_BROWSERS),
    Route("GET", "/", page.page, PUBLIC, FOR_BROWSERS),
)


# --- what is derived -------------------------------------------------------------------------------------------


def starlette_routes(table: Iterable[Route] = ROUTES) -> list[routing.Route | routing.WebSocketRoute]:
    """The routes for Starlette, each behind the check of what it needs.

    There is one for each path, with an endpoint of its own: by its endpoint the metrics know the path. Raises
    ValueError for a route that is in the table twice.
    """
    by_path: dict[tuple[str, bool], dict[str, Route]] = {}
    for route in table:
        same = by_path.setdefault((route.path, route.method == "WS"), {})
        if route.method in same:
            raise ValueError(f"{route.method} {route.path} is in the table twice")
        same[route.method] = route
    return [_of_path(path, by_method) for (path, _), by_method in by_path.items()]


def _of_path(path: str, by_method: dict[str, Route]) -> routing.Route | routing.WebSocketRoute:
    # One for all methods of a path: with one each, a 405 would name the methods of the first only
    async def endpoint(connection: Any) -> Any:
        method = connection.scope.get("method", "WS")
        return await by_method["GET" if method == "HEAD" else method].handler(connection)

    made: routing.Route | routing.WebSocketRoute
    if "WS" in by_method:
        made = routing.WebSocketRoute(path, endpoint)
    else:
        made = routing.Route(path, endpoint, methods=list(by_method))
    made.app = Guard(made.app, {method: route.need for method, route in by_method.items()})
    return made


@cache
def description() -> dict[str, Any]:
    """The OpenAPI 3.1 document that ``/openapi.json`` answers with."""
    operations = [
        (route.path, route.method, route.described, not route.need.scopes)
        for route in ROUTES
        if isinstance(route.described, Operation)
    ]
    return document(operations, [route.path for route in ROUTES if route.method == "WS"])
