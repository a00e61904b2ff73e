"""Control: cancelling, answering questions and the list of open questions, over HTTP and over watchers' sockets.

Rule 1: the log decides on a command and stores it as an event. Nothing here remembers one.
Rule 2: an answer is checked against its question here and not in the writer, as a question never changes.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidField, NoSuchRequest, TracewatchError
from ..live.sink import Sink
from ..model.canonical import TERMINAL
from ..model.events import validate_answer, validate_cancel
from ..model.frames import control
from .auth.tokens import Grant, grant_of
from .endpoint import error_frame
from .http import MAX_LIMIT, Services, json_response, limit_param, read_json, services, state_response

COMMANDS = ("cancel", "answer")  # the messages of a watcher that are commands


async def cancel_trace(request: Request) -> Response:
    """``POST /api/traces/{id}/cancel``."""
    served, trace_id = services(request), request.path_params["trace_id"]
    asked = validate_cancel(await read_json(request, served.settings.max_event_bytes))
    status = await served.log.cancel(trace_id, **asked)
    return json_response({"trace_id": trace_id, "status": status}, 202 if status == "cancelling" else 200)


async def answer_input(request: Request) -> Response:
    """``POST /api/traces/{id}/inputs/{request_id}``."""
    served = services(request)
    trace_id, request_id = request.path_params["trace_id"], request.path_params["request_id"]
    asked = validate_answer(await read_json(request, served.settings.max_event_bytes))
    await answer(served, trace_id, request_id, **asked)
    return json_response({"trace_id": trace_id, "request_id": request_id, "status": "answered"})


async def get_input(request: Request) -> Response:
    """``GET /api/traces/{id}/inputs/{request_id}``: how a question stands."""
    trace_id, request_id = request.path_params["trace_id"], request.path_params["request_id"]
    served = services(request)
    log = served.log
    found = await log.inputs_of(trace_id, request_id)
    if not found:
        await log.read(trace_id, 0, max_events=1, max_bytes=1)  # raises if there is not even the trace
        raise NoSuchRequest(f"trace {trace_id!r} has not asked a question {request_id!r}", request_id=request_id)
    return state_response(served, {"trace_id": trace_id, **found[0]})


async def list_inputs(request: Request) -> Response:
    """``GET /api/inputs``."""
    limit = limit_param(request, MAX_LIMIT)
    served = services(request)
    after = request.query_params.get("page_token") or None
    inputs, more = await served.hub.inputs((limit, grant_of(request).trace_id, after))
    token = {} if more is None else {"next_page_token": more}
    return state_response(served, {"inputs": inputs, "has_more": more is not None, **token})


async def answer(served: Services, trace_id: str, request_id: str, *, value: Any, by: str | None) -> None:
    """Check an answer and store it. Raises InvalidValue and what ``EventLog.answer`` raises."""
    for question in await served.log.inputs_of(trace_id, request_id):
        if question["state"] == "open" and question.get("answerable") != TERMINAL:
            await served.checker.check(question, value)
    await served.log.answer(trace_id, request_id, value, by=by)


async def obey(
    served: Services, sink: Sink, message: dict[str, Any], grant: Grant, trace_id: str | None = None
) -> bool:
    """Do what a watcher's ``cancel`` or ``answer`` message asks, and tell it the outcome. False for other messages.

    ``trace_id``: of a socket that watches one trace. On other sockets the message names the trace.
    """
    names = [name for name in COMMANDS if name in message]
    if len(names) != 1 or len(message) != 1:
        return False
    name, asked = names[0], message[names[0]]
    tags: dict[str, Any] = {}
    try:
        if not isinstance(asked, dict):
            raise InvalidField(f"{name}: an object")
        asked = dict(asked)
        tags = {key: asked.pop(key) for key in ("trace_id", "request_id", "id") if key in asked}
        if trace_id is not None:
            tags.setdefault("trace_id", trace_id)
        for key in ("trace_id", "request_id")[: 1 if name == "cancel" else 2]:
            if not isinstance(tags.get(key), str):
                raise InvalidField(f"{name}.{key}: is missing", details=[{"path": key, "message": "is missing"}])
        grant.require("control")
        await served.gate.check_trace(grant, tags["trace_id"])
        if name == "cancel":
            status = await served.log.cancel(tags["trace_id"], **validate_cancel(asked))
        else:
            await answer(served, tags["trace_id"], tags["request_id"], **validate_answer(asked))
            status = "answered"
        await sink.send_control(control(name, **tags, status=status))
    except TracewatchError as error:
        error.facts = {key: value for key, value in error.facts.items() if key not in tags}
        await sink.send_control(error_frame(error, **tags, command=name))
    return True
