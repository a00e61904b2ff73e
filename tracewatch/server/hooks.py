"""Hooks of coding agents: what they tell is written, and what they ask is held until somebody answers.

Rule 1: nothing is allowed but by an answer that the log has. Whatever else happens (nobody answers, the server stops, a
        defect) the answer is {}, and the agent's own terminal decides, as if there were no hook.
Rule 2: whoever is first is heard. The terminal shows its own dialog meanwhile: what is allowed there is told by the
        tool's next hook or its transcript, and what is refused there by the end of the connection.
Rule 3: an answer is only taken by a question that somebody holds. One whose holder has gone (the time is over, the
        server was stopped or killed) is closed, and asked again as one that only the terminal can answer.
Rule 4: what is to be allowed is shown whole, or it can't be allowed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..errors import BadRequest, TracewatchError, UnknownTrace
from ..importers.claude_hooks import Permission
from ..ingest.asking import answered_there, close_answered, is_over
from ..ingest.hooked import AGENTS, HookedSession
from ..log import EventLog
from ..model.canonical import TERMINAL
from .auth.origin import is_loopback
from .http import Services, int_param, json_response, read_json, services

HOLD_S = 590  # where the hook does not say it: the hooks that are installed wait for ten minutes
MOST_HOLD_S = 86_400
WRITE_S = 2.0  # an agent does not wait longer for its hook to be written
SHOWN_BYTES = 128 * 1024  # of a tool's input: a larger one is not shown whole, and is for the terminal
LABEL = 200  # characters of what a tool would do, in the question's line
ASK = "AskUserQuestion"
NOTHING: dict[str, Any] = {}
HOLDER = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


async def hook(request: Request) -> Response:
    """``POST /api/hooks/{agent}``: a hook of a coding agent, answered as its program wants to hear it."""
    served, agent = services(request), request.path_params["agent"]
    if agent not in AGENTS:
        raise HTTPException(404, f"Not Found (hooks of {', '.join(AGENTS)} are known)")
    hold_s = int_param(request, "hold", low=0, high=MOST_HOLD_S, default=HOLD_S)
    body = await read_json(request, served.settings.max_ingest_bytes)
    if not isinstance(body, dict):
        raise BadRequest("a hook is a JSON object")
    taking = asyncio.ensure_future(served.hooks.take(agent, body, here=_is_here(request)))
    done, _ = await asyncio.wait((taking,), timeout=WRITE_S)
    if not done:
        served.hooks.goes_on(taking)
        return json_response(NOTHING)
    session, asked = taking.result()
    if asked is None:
        await close_answered(served.log, session.asking, body)
        return json_response(NOTHING)
    return json_response(await _decision(served, request, session, asked, hold_s))


def _is_here(request: Request) -> bool:
    """Whether it comes from this machine, and not through a proxy."""
    client = request.client.host if request.client else "127.0.0.1"
    return is_loopback(client) and not {"forwarded", "x-forwarded-for"}.intersection(request.headers)


# --- a question that is held ----------------------------------------------------------------------------------------


async def _decision(
    served: Services, request: Request, session: HookedSession, asked: Permission, hold_s: int
) -> dict[str, Any]:
    """What the agent is told: the decision that somebody has made, or {}."""
    question = question_of(session.agent, asked)
    here = len(orjson.dumps(asked.given)) <= SHOWN_BYTES and (asked.tool != ASK or bool(_questions(asked)))
    try:
        if not here or hold_s == 0:
            await _ask_terminal(served.log, session, asked)
            return NOTHING
        session.asking[asked.key] = asked
        held = {"answerable": "here", "expires_in_s": hold_s, "held_by": HOLDER}
        await served.log.append(asked.trace_id, [{**question, **held, "request_id": asked.key, "if_absent": True}])
        how = await _until_answered(served, request, asked, hold_s)
        if how == "left":  # the server stops, or the time is over
            await _leave_to_terminal(served.log, session, asked)
        elif how == "gone":
            await answered_there(served.log, asked.trace_id, asked.key, None if asked.tool == ASK else "deny")
            await served.hooks.declined(session, asked.key)
        found = await served.log.inputs_of(asked.trace_id, asked.key)
    except (UnknownTrace, TracewatchError):
        return NOTHING  # the log can't say that it was allowed
    session.asking.pop(asked.key, None)
    one = found[0] if found else {}
    if one.get("state") != "answered" or one.get("by") == TERMINAL:
        return NOTHING
    return answer_of(asked, one.get("value"), one.get("by"))


async def _until_answered(served: Services, request: Request, asked: Permission, hold_s: int) -> str:
    """Wait: ``closed`` once the question is not open any more, ``gone`` with the client, else ``left``."""
    grown = asyncio.Event()
    take_back = served.hub.on_growth(lambda _: grown.set(), asked.trace_id)
    gone, leaving = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(served.hub.left())
    try:
        async with asyncio.timeout(hold_s + 5):  # the log says that it is over; this is for a log that can't
            while True:
                grown.clear()
                found = await served.log.inputs_of(asked.trace_id, asked.key)
                if not found or found[0]["state"] != "open":
                    return "left" if found and found[0]["state"] == "expired" else "closed"
                if await is_over(served.log, asked.trace_id, asked.call_id):
                    await answered_there(served.log, asked.trace_id, asked.key, None)
                    return "closed"
                waiting = asyncio.ensure_future(grown.wait())
                await asyncio.wait((waiting, gone, leaving), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if gone.done() or leaving.done():
                    found = await served.log.inputs_of(asked.trace_id, asked.key)
                    if not found or found[0]["state"] != "open":
                        return "closed"
                    return "gone" if gone.done() else "left"
    except TimeoutError:
        return "left"
    finally:
        take_back()
        for task in (gone, leaving):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- the terminal ---------------------------------------------------------------------------------------------------


async def _ask_terminal(log: EventLog, session: HookedSession, asked: Permission) -> None:
    """Ask what only the terminal can answer from now on."""
    key = f"{asked.key[:240]}.terminal"
    session.asking[key] = asked
    shown = question_of(session.agent, asked)
    event = {**shown, "request_id": key, "answerable": TERMINAL, "if_absent": True}
    await log.append(asked.trace_id, [event])


async def _leave_to_terminal(log: EventLog, session: HookedSession, asked: Permission) -> None:
    found = await log.inputs_of(asked.trace_id, asked.key)
    if found and found[0]["state"] == "open":
        await answered_there(log, asked.trace_id, asked.key, None)
    elif not found or found[0]["state"] != "expired":
        return
    await _ask_terminal(log, session, asked)


_ASKED = ("question", "options", "schema", "permission")


async def release_held(log: EventLog) -> int:
    """Leave to their terminals what a process held that is no more; the number of these questions."""
    after, number = None, 0
    while True:
        try:
            questions, after = await log.inputs(500, None, after)
        except TracewatchError:
            return number  # the log can't be read now: they expire
        for one in questions:
            if isinstance(one.get("held_by"), str) and _is_dead(one["held_by"]):
                number += 1
                key = one["request_id"]
                kept: dict[str, Any] = {name: one[name] for name in _ASKED if name in one}
                asked = {"event": "input_requested", "request_id": f"{key[:240]}.terminal", "answerable": TERMINAL}
                events = [
                    {"event": "input_provided", "request_id": key, "by": TERMINAL, "value": None},
                    kept | asked | {"if_absent": True},
                ]
                with contextlib.suppress(TracewatchError):
                    await log.append(one["trace_id"], events)
        if after is None:
            return number


def _is_dead(holder: str) -> bool:
    """Whether a process that has held a question is no more, as far as this machine can tell."""
    host, pid, _ = [*holder.split("/"), "", ""][:3]
    if holder == HOLDER or host != socket.gethostname() or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return True  # its number, and not it
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


# --- questions and answers ------------------------------------------------------------------------------------------


def question_of(agent: str, asked: Permission) -> dict[str, Any]:
    """The event that asks, without what says who can answer."""
    whole = len(orjson.dumps(asked.given)) <= SHOWN_BYTES
    shown = {"input": asked.given} if whole else {"too_large": True}
    permission = {"tool": asked.tool, **shown, "agent": asked.agent, "cwd": asked.cwd, "source": agent}
    permission |= {"call_id": asked.call_id} if asked.call_id else {}
    event: dict[str, Any] = {"event": "input_requested", "permission": permission}
    questions = _questions(asked)
    if not questions:
        return event | {"question": f"Allow {asked.tool}{_of(asked.given)}?", "options": ["allow", "deny"]}
    if len(questions) == 1 and not questions[0].get("multiSelect"):
        return event | {"question": questions[0]["question"], "options": _labels(questions[0])}
    properties = {one["question"]: _field(one) for one in questions}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return event | {"question": "; ".join(properties)[:2000], "schema": schema}


def answer_of(asked: Permission, value: Any, by: str | None) -> dict[str, Any]:
    """What the agent's program wants to hear of an answer; {} for one that decides nothing."""
    questions = _questions(asked)
    decision: dict[str, Any]
    if questions:
        answers = value if isinstance(value, dict) else {questions[0]["question"]: value}
        said = {name: ", ".join(map(str, one)) if isinstance(one, list) else str(one) for name, one in answers.items()}
        decision = {"behavior": "allow", "updatedInput": {**asked.given, "answers": said}}
    elif value == "allow":
        decision = {"behavior": "allow"}
    elif value == "deny":
        decision = {"behavior": "deny", "message": f"{by or 'Somebody'} has denied this in tracewatch."}
    else:
        return NOTHING
    return {"hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": decision}}


def _questions(asked: Permission) -> list[dict[str, Any]]:
    """The questions of an AskUserQuestion in a form that can be answered here; else none."""
    given = asked.given.get("questions")
    if asked.tool != ASK or not isinstance(given, list):
        return []
    good = [one for one in given if isinstance(one, dict) and isinstance(one.get("question"), str) and _labels(one)]
    return good if len(good) == len(given) and len({one["question"] for one in good}) == len(good) else []


def _labels(question: dict[str, Any]) -> list[str]:
    options = question.get("options")
    labels = [one.get("label") for one in options if isinstance(one, dict)] if isinstance(options, list) else []
    return [label for label in labels if isinstance(label, str) and label]


def _field(question: dict[str, Any]) -> dict[str, Any]:
    labels: dict[str, Any] = {"enum": _labels(question)}
    title: dict[str, Any] = {
        "title": str(question.get("header") or question["question"]),
        "description": question["question"],
    }
    if question.get("multiSelect"):
        return {**title, "type": "array", "items": labels, "minItems": 1, "uniqueItems": True}
    return title | labels


def _of(given: dict[str, Any]) -> str:
    for name in ("command", "file_path", "url", "path", "pattern"):
        if isinstance(given.get(name), str):
            line = " ".join(given[name].split())
            return f": {line[:LABEL]}{'…' if len(line) > LABEL else ''}"
    return ""
