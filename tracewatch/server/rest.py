"""The calls of the REST API, but for reading events (stream.py) and for control (control.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ..errors import BadRequest, InvalidField, TracewatchError
from ..log import Appended, Snapshot
from ..model.canonical import parse_json, parse_lines
from ..model.content_lines import ContentLines
from ..model.events import validate_header, validate_trace
from ..model.frames import format_cursor, snapshot_values
from ..model.payloads import TRACE_ID
from ..model.times import format_time
from .auth.tokens import grant_of
from .http import (
    JSON,
    MAX_ID,
    NDJSON,
    Services,
    int_param,
    json_response,
    limit_param,
    read_body,
    read_json,
    read_now,
    services,
    state_response,
    whole_number,
)
from .lists import list_of_request

# Of a state, what an answer has of it
STATE_KEYS = frozenset({"trace", "goal_tree", "sub_traces", "pending_inputs", "steps", "in_flight"})
ENCODED_AT_ONCE = 500  # goals, sub-traces and questions of a state; more are encoded off the loop


async def create_trace(request: Request) -> Response:
    """``POST /api/traces``."""
    served = services(request)
    spec = validate_trace(await read_json(request, served.settings.max_event_bytes))
    grant = grant_of(request)
    await served.gate.check_create(grant, spec)
    snapshot, created = await served.log.create_trace(spec, below=grant.trace_id)
    return json_response(created_json(served, snapshot), 201 if created else 200)


def created_json(served: Services, snapshot: Snapshot) -> dict[str, Any]:
    """What creating a trace answers."""
    state = snapshot.state
    return {
        "trace_id": state.trace_id,
        "cursor": format_cursor(served.log.epoch, state.last_event_id),
        "trace": state.trace(lease_alive=snapshot.lease_alive),
    }


async def list_traces(request: Request) -> Response:
    """``GET /api/traces``."""
    served = services(request)
    query = replace(list_of_request(request.query_params), below=grant_of(request).trace_id)
    traces, before = await served.log.traces(query)
    return state_response(served, {"traces": traces, "next_page_token": before})


async def get_trace(request: Request) -> Response:
    """``GET /api/traces/{id}``."""
    served, trace_id = services(request), request.path_params["trace_id"]
    at_event_id = int_param(request, "at_event_id", low=0, high=MAX_ID, default=None)
    snapshot = await served.log.snapshot(trace_id, at_event_id)
    state = snapshot.state.copy()  # for another thread: copying a state may change its form
    more = {
        "watchers": served.hub.watchers(trace_id),
        "cursor": format_cursor(served.log.epoch, snapshot.state.last_event_id),
        **read_now(served),
    }

    def encode() -> bytes:
        values = snapshot_values(state, lease_alive=snapshot.lease_alive)
        shown = {key: value for key, value in values.items() if key in STATE_KEYS}
        return orjson.dumps({**shown, **more})

    parts = (state.goals, state.sub_traces, state.pending_inputs, state.steps)
    is_large = sum(map(len, parts)) > ENCODED_AT_ONCE
    return json_response(await served.log.aside(encode) if is_large else encode())


async def delete_trace(request: Request) -> Response:
    """``DELETE /api/traces/{id}``."""
    deleted = await services(request).log.delete_trace(request.path_params["trace_id"])
    return json_response({"deleted": deleted})


async def get_messages(request: Request) -> Response:
    """``GET /api/traces/{id}/messages``."""
    served = services(request)
    messages, has_more = await served.log.messages(
        request.path_params["trace_id"],
        goal_id=request.query_params.get("goal_id") or None,
        before=int_param(request, "before", low=0, high=MAX_ID, default=None),
        limit=limit_param(request, 100),
    )
    return state_response(served, {"messages": messages, "has_more": has_more})


async def get_message(request: Request) -> Response:
    """``GET /api/traces/{id}/messages/{message_id}``."""
    served, trace_id = services(request), request.path_params["trace_id"]
    message_id = request.path_params["message_id"]
    if int_param(request, "prompt", low=0, high=1, default=0):
        about = {"trace_id": trace_id, **read_now(served)}
        body = await served.log.prompt(trace_id, message_id)
        return json_response(orjson.dumps(about)[:-1] + b"," + body[1:])
    event_id, message = await served.log.message(trace_id, message_id)
    return state_response(served, {"trace_id": trace_id, "event_id": event_id, "message": message})


def _header_number(request: Request, name: str, low: int) -> int | None:
    text = request.headers.get(name)
    return None if text is None else whole_number(name, text, low, MAX_ID)


def checked_producer(producer: Any, seq: Any) -> None:
    """Raise InvalidField unless both or neither are given and are what they should be."""
    fault = ""
    if (producer is None) != (seq is None):
        fault = "Producer-Id and Producer-Seq go together"
    elif producer is not None and not (isinstance(producer, str) and TRACE_ID.fullmatch(producer)):
        fault = "Producer-Id: 1-128 characters of A-Z a-z 0-9 . _ : @ -"
    elif seq is not None and (isinstance(seq, bool) or not isinstance(seq, int) or not 1 <= seq <= MAX_ID):
        fault = f"Producer-Seq: a whole number from 1 to {MAX_ID}"
    if fault:
        raise InvalidField(fault)


def parse_events(body: bytes, content_type: str) -> list[Any]:
    """The events in a body: one object, an array, or NDJSON. Raises BadRequest."""
    media = content_type.split(";")[0].strip().lower()
    if media in (NDJSON, "application/ndjson", "application/jsonl"):
        return parse_lines(body)
    start = body.lstrip()[:1]
    if media != JSON and start == b"{" and b"\n" in body.strip():
        try:
            return parse_lines(body)
        except BadRequest:
            pass  # one object over several lines
    value = parse_json(body)
    return value if isinstance(value, list) else [value]


def appended_json(appended: Appended) -> dict[str, Any]:
    """The answer to an append."""
    return {
        "first_event_id": appended.first_event_id,
        "last_event_id": appended.last_event_id,
        "duplicates": appended.duplicates,
    }


async def append_events(request: Request) -> Response:
    """``POST /api/traces/{id}/events``."""
    served = services(request)
    producer = request.headers.get("producer-id")
    seq = _header_number(request, "Producer-Seq", 1)
    checked_producer(producer, seq)
    expected = _header_number(request, "Expected-Last-Event-Id", 0)
    body = await read_body(request, served.settings.max_batch_bytes)
    appended = await served.log.append(
        request.path_params["trace_id"],
        parse_events(body, request.headers.get("content-type", "")),
        producer=producer,
        seq=seq,
        expected_last_event_id=expected,
        parsed=True,
        below=grant_of(request).trace_id,
    )
    return json_response(appended_json(appended))


async def import_trace(request: Request) -> Response:
    """``POST /api/import``."""
    served = services(request)
    lines = parse_lines(await read_body(request, served.settings.max_batch_bytes))
    if not lines or not isinstance(lines[0], dict) or "trace" not in lines[0]:
        raise BadRequest('an import begins with the line {"trace": {…}} that export wrote')
    header = validate_header(lines[0]["trace"])
    grant = grant_of(request)
    await served.gate.check_import(grant, header)
    events = [line for line in lines[1:] if not _is_content(line)]
    if len(events) < len(lines) - 1:
        await served.log.restore(header, [], below=grant.trace_id)
        await _put_contents(served, header["trace_id"], [line["blob"] for line in lines[1:] if _is_content(line)])
    appended = await served.log.restore(header, events, below=grant.trace_id)
    return json_response({"trace_id": header["trace_id"], **appended_json(appended)})


def _is_content(line: Any) -> bool:
    return isinstance(line, dict) and "blob" in line and "event" not in line


async def _put_contents(served: Services, trace_id: str, parts: list[Any]) -> None:
    """Store the contents of an import, each of which must be whole in the request."""
    coming = ContentLines()
    for index, part in enumerate(parts):
        data = coming.take(part)
        if data is not None:

            async def whole(body: bytes = data) -> AsyncIterator[bytes]:
                yield body

            media_type, sha256 = coming.media_type, coming.sha256
            await served.log.blobs.put(trace_id, sha256, whole(), media_type=media_type, size=len(data))
            coming = ContentLines()
        elif index == len(parts) - 1:
            raise InvalidField("blob: a content that is not whole in this request; PUT larger ones before")


async def healthz(request: Request) -> Response:
    """``GET /healthz``: whether the process answers. It asks nothing of the log."""
    served = services(request)
    return state_response(served, {"status": "ok", "version": version("tracewatch")})


async def readyz(request: Request) -> Response:
    """``GET /readyz``: whether the server can serve (503 if not) and whether it is degraded, with the reasons."""
    served = services(request)
    problems: list[tuple[str, str, str | None]] = [
        (one.code, one.message, format_time(one.since)) for one in served.log.health.troubles
    ]
    try:
        await served.log.changes()
    except TracewatchError as error:
        if error.message not in [message for _, message, _ in problems]:
            problems.append((str(error.facts.get("reason", error.code)), error.message, None))
    if served.hub.is_leaving:
        problems.append(("leaving", "the server is leaving", None))
    ready, degraded = not problems, False
    if served.redis is not None and served.redis.health.degraded:
        degraded = True
        words = f"redis: {served.redis.health.reason}; other processes' events are found by looking"
        problems.append(("redis", words, None))
    answer = {
        "ready": ready,
        "degraded": degraded,
        "reasons": [message for _, message, _ in problems],
        "problems": [{"code": code, "message": message, "since": since} for code, message, since in problems],
    }
    return json_response(answer, 200 if ready else 503, None if ready else {"Retry-After": "1"})
