"""What an item makes of the log: the events that say of it what the log does not have yet. Pure.

Rule 1: an item is added once; after that there is at most an update with what is new. A repeat is nothing.
Rule 2: what has ended is not begun again: an item that isn't final changes nothing that a final one has said.
Rule 3: of a model call's prompt only what this trace does not have is written: system and user messages as messages of
        their own, once; its own answers and its tools' results are those that are there.
Rule 4: every event fits the log's limits (``model/fit.py``), with ids that a repeat would give again.
"""

from __future__ import annotations

from typing import Any

import orjson

from ..model import fit
from ..model.canonical import ENDED, canonical
from ..model.contents import preview_of
from ..model.mend import event_name
from ..model.payloads import RECORDED
from ..model.prompt import digest_of, digest_of_all, kind_of
from .digests import answer_print, digest, value_print
from .items import Item, error_of, stamp
from .known import PROMPT, Entry, Event, Known, KnownTrace, LastCall, trace_id_of

PREVIEW_CHARS = 2000  # of a step's input and output, and of a summary
MOST_BEGUN = 1000  # calls of a trace that run side by side
MOST_PROMPT = 5000  # messages of one prompt
MOST_LINKS = 100  # of a trace
LIST_BYTES = 48 * 1024  # of a prompt's items that stand in its event
LIST_PREVIEW = 1000  # characters
STEP_STATUS = {None: "completed", "completed": "completed", "failed": "failed", "stopped": "stopped"}


def fitted(event: Event, key: str) -> list[Event]:
    """The event as events that the log takes. Further messages that it needs are named after ``key``."""
    made = 0

    def new_id() -> str:
        nonlocal made
        made += 1
        return f"{key}.{digest(event)[:6]}.{made}"

    first, *more = fit.fit(event, new_id)
    return [first, *(one | {"if_absent": True} if one["event"] == "message_added" else one for one in more)]


def events_of(known: Known, trace_id: str, item: Item, place: dict[str, Any]) -> list[Event]:
    """The events for an item of any kind but an agent. ``place``: the keys that say where it stands (``step_id``)."""
    entry = known.entry(item.key)
    if item.kind in ("model_call", "message", "tool"):
        return _message(known, trace_id, item, place)
    if item.kind == "step" or item.kind is None:
        return _step(known, entry, item, place)
    if item.kind == "goal":
        return _goal(entry, item)
    if item.kind == "question":
        return _question(entry, item)
    return _event(known, entry, item)


def _stamped(event: Event, item: Item) -> Event:
    at = stamp(item.ended_at if item.final and item.ended_at is not None else item.started_at)
    return event if at is None else {**event, "occurred_at": at}


def _news(entry: Entry, item: Item, wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of ``wanted`` that the log does not have."""
    said = entry.said or {}
    news = {}
    for name, value in wanted.items():
        if name in said and (
            said[name] == value_print(value)
            or name == "started_at"
            or (entry.final and not item.final and name != "request")
        ):
            continue
        news[name] = value
    return news


# --- messages ----------------------------------------------------------------------------------------------------


def _message(known: Known, trace_id: str, item: Item, place: dict[str, Any]) -> list[Event]:
    entry, events = known.entry(item.key), list[Event]()
    wanted = _times(item) | _shared(item)
    if item.kind == "tool":
        wanted |= _tool(entry, item)
    elif item.text is not None or item.content is not None:
        wanted["content"] = item.text if item.text is not None else item.content
    if item.kind == "model_call":
        wanted |= _call(item)
        if _asks_more(entry, item) and entry.asked != (words := asked_print(item)):
            wanted["request"], events = _request(known, trace_id, item)
            entry.asked = words
    if item.final:
        wanted["status"] = "complete"
        if (begun := known.begun.pop(item.key, None)) is not None and "request" not in wanted:
            known.last_call[trace_id] = begun
    wanted = known.aside.fields(wanted)
    append = "" if item.final or entry.final or "content" in wanted else _appended(entry, item)
    if entry.trace_id is None:
        return events + fitted(_added(item, wanted | ({"content": append} if append else {}), place), item.key)
    patch = _news(entry, item, wanted | {name: value for name, value in place.items() if value is not None})
    if entry.final and "status" in patch:
        del patch["status"]
    if not patch and not append:
        return events
    event: Event = {"event": "message_updated", "message_id": item.key}
    event |= ({"append": append} if append else {}) | ({"patch": patch} if patch else {})
    return events + fitted(_stamped(event, item) if patch else event, item.key)


def _appended(entry: Entry, item: Item) -> str:
    """What of a text that streams the log does not have; "" where something before it has not come."""
    at, text = item.more or (0, "")
    there = len(entry.text)
    return text[there - at :] if at <= there < at + len(text) else ""


def _added(item: Item, wanted: dict[str, Any], place: dict[str, Any]) -> Event:
    role = {"tool": "tool", "model_call": "assistant"}.get(item.kind or "") or item.role or "user"
    message: dict[str, Any] = {"message_id": item.key, "role": fit.name(role), "content": "", "item_parent": None}
    message["status"] = "running" if item.kind == "tool" else "streaming"
    message |= {name: value for name, value in place.items() if value is not None}
    if item.kind == "model_call":
        message["item_kind"] = "call"
    return _stamped({"event": "message_added", "message": message | wanted}, item)


def _times(item: Item) -> dict[str, Any]:
    started, ended = stamp(item.started_at), stamp(item.ended_at)
    return ({"started_at": started} if started else {}) | ({"ended_at": ended} if ended and item.final else {})


def _shared(item: Item) -> dict[str, Any]:
    wanted: dict[str, Any] = {**item.fields, **_parent(item)}
    if item.error is not None and item.kind != "tool":
        wanted["error"] = _error(item.error)
    if item.tool_call_id:
        wanted["tool_call_id"] = fit.name(item.tool_call_id)
    return wanted


def _parent(item: Item) -> dict[str, Any]:
    """The parent as the source has it: by it the table of items is had from the log."""
    return {} if item.parent is None else {"item_parent": item.parent}


def _error(error: Any) -> Any:
    return error_of(error) if isinstance(error, str) else error


def _tool(entry: Entry, item: Item) -> dict[str, Any]:
    content = dict(entry.content or {})
    over = entry.final and not item.final  # then only what is missing
    if item.name and not (over and "tool_name" in content):
        content["tool_name"] = item.name
    for name, value in (("arguments", item.arguments), ("result", item.result), ("error", item.error)):
        if value is not None and not (over and name in content):
            content[name] = _error(value) if name == "error" else value
    return {"content": {"tool_name": "tool", **content}}


def _call(item: Item) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if item.model:
        wanted["model"] = item.model
    if item.usage:
        wanted["usage"] = item.usage
    if (cost := fit.amount(item.cost)) is not None:
        wanted |= {"cost": cost, "cost_source": "given"}
    if item.thinking:
        wanted["thinking"] = item.thinking
    if item.tool_calls:
        wanted["tool_calls"] = item.tool_calls
    if item.final and item.text is None and item.content is None:
        wanted["description"] = _asks(item.tool_calls)
    return wanted


def _asks(tool_calls: list[dict[str, Any]] | None) -> str:
    """What is shown in the place of the text of a model call that only asked for tools."""
    names = [str(call.get("name")) for call in tool_calls or ()]
    return f"→ {', '.join(names)}"[:200] if names else ""


# --- prompts -----------------------------------------------------------------------------------------------------


def _asks_more(entry: Entry, item: Item) -> bool:
    """Whether an item may say more of what a call was asked: an end may leave it out that a start has said."""
    if item.input is not None:
        return not (entry.is_asked and entry.final and not item.final)
    return bool(item.params or item.tools) and not entry.is_asked


def asked_print(item: Item) -> str:
    """The digest of all that a call was asked, as its request has it."""
    given = [digest_of(canonical(one)) for one in (item.input or [])[:MOST_PROMPT]]
    return digest_of_all(item.params or None, [digest_of(canonical(one)) for one in item.tools or ()], given)


def _request(known: Known, trace_id: str, item: Item) -> tuple[dict[str, Any], list[Event]]:
    """What a call was asked, naming what its trace has, and the events that add what it does not have yet.

    The form is that of docs/protocol.md, "What a model call was asked".
    """
    asked = (item.input or [])[:MOST_PROMPT]
    given = [digest_of(canonical(one)) for one in asked]
    tools = [digest_of(canonical(one)) for one in item.tools or ()]
    request: dict[str, Any] = {}
    events: list[Event] = []
    last = known.last_call.get(trace_id)
    if last is not None and last.key == item.key:
        last = None
    params_key = item.key
    if item.params:
        if last is not None and last.params == item.params:
            params_key = last.params_key  # the one that has them, not one that names another
        request |= {"params": item.params} if params_key == item.key else {"params_of": params_key}
    if item.tools:
        same = last is not None and last.tools == tools
        named = {"tools_of": last.key, "to": len(tools)} if last is not None and same else None
        request["tools"] = [named] if named else _as_list(known, trace_id, item, item.tools, "tools", events)
    if item.input is not None:
        shared = 0 if last is None else _shared_prefix(last.given, given)
        begun = [{"input_of": last.key, "to": shared}] if last is not None and shared > 1 else []
        shared = shared if begun else 0
        rest: list[Any] = []
        for number, message in enumerate(asked[shared:], shared):
            nth = given[:number].count(given[number])
            one, more = _said_to(known, trace_id, item, message, nth)
            rest.append(one)
            events += more
        rest = _as_list(known, trace_id, item, rest, "input", events)
        if fit.json_bytes(rest) > 2 * LIST_BYTES:  # of very many that are named one by one
            rest = [_list_aside(known, trace_id, item, asked[shared:], events)]
        request["input"] = begun + rest
    request["digest"] = digest_of_all(item.params or None, tools, given)
    made = LastCall(item.key, item.params, params_key, tools, given)
    if item.final:
        known.last_call[trace_id] = made
    elif len(known.begun) < MOST_BEGUN:
        known.begun[item.key] = made
    return request, events


def _as_list(known: Known, trace_id: str, item: Item, items: list[Any], name: str, events: list[Event]) -> list[Any]:
    """The items of a request; where they are large together, those that stand there whole are lists beside the log."""
    if fit.json_bytes(items) <= LIST_BYTES:
        return items
    found: list[Any] = []
    whole: list[Any] = []
    for one in [*items, None]:
        kind = "value" if one is None else kind_of(one, name)
        if one is not None and (not kind or (kind == "value" and not one.get("parts"))):
            whole.append(one["value"] if kind else one)
            continue
        if whole:
            found.append(_list_aside(known, trace_id, item, whole, events))
            whole = []
        found += [] if one is None else [one]
    return found


def _list_aside(known: Known, trace_id: str, item: Item, whole: list[Any], events: list[Event]) -> dict[str, Any]:
    """Some items of a request, as a reference to a message that has them as JSON, which stands beside the log."""
    words = digest(whole)
    there = known.prompts.setdefault(trace_id, {})
    if words not in there:
        body = orjson.dumps(whole)
        preview = preview_of(body[: 4 * LIST_PREVIEW].decode("utf-8", "ignore"))
        message: Event = {"message_id": f"{PROMPT}{words}", "role": "attachment", "of_message": item.key}
        message |= {"content": known.aside.keep(body, "text/plain", preview), "description": "of the prompt"}
        events.append({"event": "message_added", "message": message, "if_absent": True})
        there[words] = message["message_id"]
    return {"list_of": there[words], "to": len(whole)}


def _shared_prefix(one: list[bytes], other: list[bytes]) -> int:
    shared = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared += 1
    return shared


def _said_to(known: Known, trace_id: str, item: Item, message: dict[str, Any], nth: int) -> tuple[Any, list[Event]]:
    """A message that a model was given as an item of its request, and the events that it takes."""
    role, content = str(message.get("role") or "user"), message.get("content")
    if role == "tool":
        call = known.calls.get((trace_id, str(message.get("tool_call_id"))))
        if call is not None and call.result == value_print(content) and known.entry(call.key).trace_id == trace_id:
            return {"value": {**message, "content": None}, "parts": _part(call.key, "/content/result")}, []
    elif role == "assistant":
        words = answer_print(content, message.get("tool_calls"))
        found = None if words is None else known.prompts.get(trace_id, {}).get(words)
        if found is not None and content:
            return {"value": {**message, "content": None}, "parts": _part(found, "/content")}, []
    elif set(message) == {"role", "content"} and content:
        words = digest([role, content, nth])
        there = known.prompts.setdefault(trace_id, {})
        events = [] if words in there else _prompt(known, f"{PROMPT}{words}", role, content, item)
        there[words] = f"{PROMPT}{words}"
        return {"message_id": there[words]}, events
    # From before this trace, or of a call that is still to come: it stands here whole
    return ({"value": message} if kind_of(message, "input") else message), []


def _part(message_id: str, at: str) -> dict[str, Any]:
    return {"/content": {"message_id": message_id, "at": at}}


def _prompt(known: Known, message_id: str, role: str, content: Any, item: Item) -> list[Event]:
    message = {"message_id": message_id, "role": fit.name(role), "content": content}
    message = known.aside.fields(message)
    at = stamp(item.started_at)
    if at is not None:
        message |= {"started_at": at, "ended_at": at}
    event: Event = {"event": "message_added", "message": message, **({"occurred_at": at} if at else {})}
    return fitted({**event, "if_absent": True}, message_id)


# --- steps, goals, questions, events -------------------------------------------------------------------------------


def _preview(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= PREVIEW_CHARS else f"{text[: PREVIEW_CHARS - 1]}…"


def _step(known: Known, entry: Entry, item: Item, place: dict[str, Any]) -> list[Event]:
    wanted: dict[str, Any] = {"name": fit.name(item.name)} if item.name else {}
    wanted |= {**_times(item), **item.fields, **_parent(item)}
    wanted |= {name: value for name, value in place.items() if value is not None}
    for name, value in (("input", item.arguments), ("output", item.result)):
        if value is not None:
            wanted[name] = _preview(value)
    if item.error is not None:
        wanted["error"] = _error(item.error)
    if item.final:
        wanted["status"] = "failed" if item.error is not None else STEP_STATUS.get(item.status, "completed")
    wanted = known.aside.fields(wanted)
    if entry.trace_id is None:
        step = {"id": item.key, "name": "step", "status": "running", **wanted}
        return fitted(_stamped({"event": "step_added", "step": step}, item), item.key)
    patch = _news(entry, item, wanted)
    if not patch:
        return []
    return fitted(_stamped({"event": "step_updated", "step_id": item.key, "patch": patch}, item), item.key)


def _goal(entry: Entry, item: Item) -> list[Event]:
    wanted: dict[str, Any] = {}
    if item.name:
        wanted["description"] = _preview(item.name)
    if item.status in ("pending", "in_progress", "completed", "abandoned"):
        wanted["status"] = item.status
    if item.result is not None:
        wanted["summary"] = _preview(item.result)
    if entry.trace_id is None:
        goal = {"id": item.key, "description": "goal", **item.fields, **_parent(item), **wanted}
        return fitted(_stamped({"event": "goal_added", "goal": goal}, item), item.key)
    patch = _news(entry, item, wanted)
    if not patch:
        return []
    return [_stamped({"event": "goal_updated", "goal_id": item.key, "patch": patch}, item)]


def _question(entry: Entry, item: Item) -> list[Event]:
    events: list[Event] = []
    if entry.trace_id is None:
        asked = {"event": "input_requested", "request_id": item.key, "question": item.name or "?", **item.fields}
        asked |= _parent(item)
        asked |= {"options": item.options} if item.options else {}
        asked |= {"schema": item.schema} if item.schema else {}
        at = stamp(item.started_at)
        events += fitted({**asked, **({"occurred_at": at} if at else {})}, item.key)
    if item.final and not entry.final:
        answered: Event = {"event": "input_provided", "request_id": item.key, "value": item.result, "by": "terminal"}
        events += fitted(_stamped(answered, item), item.key)
    return events


def _event(known: Known, entry: Entry, item: Item) -> list[Event]:
    if entry.trace_id is not None:
        return []
    name = event_name(item.name or "source.event")
    name = f"source.{name}"[:64] if name in RECORDED or name == "ingest_refused" else name
    event: Event = {"event": name, **item.fields, **_parent(item), "item_key": item.key}
    if item.content is not None:
        event["content"] = item.content
    return fitted(known.aside.event(_stamped(event, item)), item.key)


# --- traces --------------------------------------------------------------------------------------------------------


WAITING = "(waiting for its root)"
_NO_TASK = digest(WAITING)


def trace_fields(item: Item | None, name: str) -> dict[str, Any]:
    """The fields of the trace of an agent, or of a stub for what has not come yet (None), from a process ``name``."""
    if item is None:
        return {"task": WAITING, "agent_type": fit.name(name)}
    called = item.name or name
    asked = item.task or (item.arguments if isinstance(item.arguments, str) else None)
    fields: dict[str, Any] = {"task": fit.task(asked or called), "agent_type": fit.name(called)}
    for key, value in (("session_id", item.session_id), ("user_id", item.user_id)):
        if value:
            fields[key] = fit.name(value)
    if item.tags:
        fields["tags"] = [tag[:128] for tag in item.tags[:64] if tag]
    if at := stamp(item.started_at):
        fields["started_at"] = at
    return fields


def trace_events(trace: KnownTrace, item: Item, source: str, name: str) -> list[Event]:
    """What a word about an agent, or about a root that is none, changes of its trace, but for its end."""
    wanted = trace_fields(item, name)
    if item.task is None and not isinstance(item.arguments, str) and trace.said.get("task") not in (None, _NO_TASK):
        del wanted["task"]  # it has been said what it is about
    if item.links:
        others = [(str(one.get("trace")), str(one.get("kind") or "span")) for one in item.links[:MOST_LINKS]]
        wanted["links"] = [{"trace_id": trace_id_of(source, other), "kind": kind[:64]} for other, kind in others]
    over = trace.status in ENDED and not item.final
    known = trace.fields.get("task")
    if known == fit.task(trace.fields.get("agent_type", "")) and known != wanted.get("task", known):
        trace.said.pop("task", None)  # that was only its name
    metadata, _ = fit.split_metadata(item.fields)
    wanted_metadata = {f"metadata.{key}": value for key, value in metadata.items()}
    news = {
        key: value
        for key, value in (wanted | wanted_metadata).items()
        if trace.said.get(key) != digest(value) and not (key in trace.said and _is_no_news(trace, key, value, over))
    }
    if not news:
        return []
    more = {key.removeprefix("metadata."): value for key, value in news.items() if key.startswith("metadata.")}
    fields = {key: value for key, value in news.items() if not key.startswith("metadata.")}
    return [{"event": "trace_updated", **fields, **({"metadata": more} if more else {})}]


def _is_no_news(trace: KnownTrace, key: str, value: Any, over: bool) -> bool:
    """Whether what is known of a trace stays: it is over, or a start is later than one that was told.

    Nothing above begins after what stands in it, and an earlier start may come late.
    """
    return bool(value >= trace.fields.get("started_at", "")) if key == "started_at" else over


def outcome(trace: KnownTrace, item: Item) -> list[Event]:
    """The end of the run that a trace stands for, or that it waits or goes on."""
    ended = trace.status in ENDED
    if item.final:
        if ended:
            return []
        status = item.status if item.status in ENDED else "failed" if item.error is not None else "completed"
        event: Event = {"event": "trace_completed", "status": status}
        if item.kind == "agent" and item.result is not None:
            event["summary"] = _preview(item.result)
        if item.error is not None:
            event["error"] = _error(item.error)
        return fitted(_stamped(event, item), item.key)
    if item.status not in ("running", "waiting", "idle") or item.status == trace.status:
        return []
    began = stamp(item.started_at)
    if ended and not (began and trace.ended_at and began > trace.ended_at):
        return []  # it ended after this was so
    return [_stamped({"event": "trace_status_changed", "status": item.status}, item)]
