"""The rules of events: the checks and additions of the protocol's section 2, made before an event is stored.

Rule 1: ``complete`` reads the state and never changes it. ``state.apply`` then applies the event that it returns.
Rule 2: ``complete`` writes everything into the event that a client needs to fold it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import (
    GoalDepth,
    GoalExists,
    Invalid,
    InvalidTransition,
    MessageExists,
    MessageTooLarge,
    NotText,
    RequestExists,
    StepDepth,
    StepExists,
    UnknownGoal,
    UnknownMessage,
    UnknownRequest,
    UnknownStep,
)
from .canonical import MAX_GOAL_DEPTH, MAX_STEP_DEPTH
from .events import IDS, PARTS_OF_MESSAGES, named_in
from .goals import Changes, add_to_stats, at_depth, cascade_up, empty_stats, may_become, plus, reopen_up
from .moves import around, goal_moved, levels_below, message_moved
from .prompt import references
from .state import State, describe, tool_name, updated_message
from .steps import PLACE, above, height, status_of
from .times import format_time, parse_time
from .usage import difference, summed_usage, total_of

MAX_MESSAGE_TEXT = 4 * 1024 * 1024  # characters of one message; readers hold it whole
_GENERATED = re.compile(r"[mrs][0-9]+", re.ASCII)

Raw = Mapping[str, Any]
Stored = dict[str, Any]
# The cost in dollars of a message with a model and a usage, by its event's time
Price = Callable[[Mapping[str, Any], str], float | None]
Known = Callable[[str], bool]  # whether the trace has a message


def complete(
    state: State, raw: Raw, *, event_id: int, ts: str, price: Price | None = None, known: Known | None = None
) -> Stored:
    """The stored form of the next event after ``state``. ``raw`` has passed ``validate_event``.

    ``event_id`` is its place in the log and ``ts`` the time of the append (RFC 3339, UTC). ``state.messages`` must have
    the messages that the event names, if they exist. ``price`` works out the cost of a message that has a usage and no
    cost; None leaves it unknown. ``known`` says which messages there are that ``state`` does not have; a request may
    name them. Raises the refusals of errors.py (UnknownGoal and others).
    """
    stored: Stored = {"event": raw["event"], "event_id": event_id, "trace_id": state.trace_id, "ts": ts}
    if "occurred_at" in raw:
        stored["occurred_at"] = raw["occurred_at"]
    stored.update(raw)
    part = PARTS_OF_MESSAGES.get(raw["event"])
    if part is not None and part in stored:
        _count_use(state, stored, part, price)
        if "request" in stored[part]:
            _check_request(state, stored, part, known)
    rule = _RULES.get(raw["event"])
    if rule is not None:
        rule(state, stored)
    return stored


def is_repeat(state: State, raw: Raw) -> bool:
    """Whether an event adds ``if_absent`` what is there, or answers what is no longer open: then it is nothing.

    ``state.messages`` must have the message that it names, if it exists.
    """
    if raw["event"] == "input_provided":
        return raw["request_id"] in state.closed_inputs
    if not raw.get("if_absent") or raw["event"] not in IDS:
        return False
    given, name = named_in(raw), raw["event"]
    if name == "input_requested":
        return given in state.pending_inputs or given in state.closed_inputs
    return given in {"goal_added": state.goals, "message_added": state.messages, "step_added": state.steps}[name]


def _count_use(state: State, stored: Stored, key: str, price: Price | None) -> None:
    """Say the tokens and the cost of a message or patch (``key``) that has a usage and does not say them itself."""
    given = stored[key]
    if not ("usage" in given or (key == "patch" and "model" in given)):
        return
    before = {} if key == "message" else state.messages.get(stored["message_id"])
    if before is None:
        return
    message = {**before, **given} if before else given
    usage = message.get("usage")
    if usage is None:
        return
    given = dict(given)
    if "tokens" not in given and before.get("tokens", 0) == total_of(before.get("usage", {})):
        given["tokens"] = total_of(usage)
    if price is not None and "cost" not in given and before.get("cost_source", "priced") == "priced":
        cost = price(message, stored.get("occurred_at") or stored["ts"])
        if cost is not None:
            given["cost"], given["cost_source"] = cost, "priced"
    stored[key] = given


def _check_request(state: State, stored: Stored, part: str, known: Known | None) -> None:
    """Refuse a request that names messages which the trace does not have."""
    request = stored[part]["request"]
    unknown = [
        {"path": f"{part}.request.{path}", "message": f"there is no message {name!r} in this trace", "message_id": name}
        for path, name in references(request)
        if name not in state.messages and (known is None or not known(name))
    ]
    if unknown:
        raise UnknownMessage(f"{unknown[0]['path']}: {unknown[0]['message']}", details=unknown)


def _affected(*changes: Changes) -> list[dict[str, Any]]:
    merged: Changes = {}
    for change in changes:
        for goal_id, values in change.items():
            merged.setdefault(goal_id, {}).update(values)
    return [{"goal_id": goal_id, **values} for goal_id, values in merged.items()]


def _known_goal(state: State, goal_id: str, path: str) -> dict[str, Any]:
    goal = state.goals.get(goal_id)
    if goal is None:
        raise UnknownGoal(f"{path}: there is no goal {goal_id!r} in this trace", goal_id=goal_id)
    return goal


def _known_step(state: State, step_id: str, path: str) -> dict[str, Any]:
    step = state.steps.get(step_id)
    if step is None:
        raise UnknownStep(f"{path}: there is no step {step_id!r} in this trace", step_id=step_id)
    return step


def _refuse(path: str, message: str) -> Invalid:
    return Invalid(f"{path}: {message}", details=[{"path": path, "message": message}])


def _own_id(given: str | None, letter: str, event_id: int, path: str) -> str:
    own = f"{letter}{event_id}"
    if given is None:
        return own
    if given != own and given[0] == letter and _GENERATED.fullmatch(given):
        raise _refuse(path, f"{given!r}: ids of the form {letter}<number> are made by the server; choose another")
    return given


def _check_depth(state: State, parent_id: str | None, levels: int = 1, path: str = "goal.parent_id") -> None:
    """Refuse a goal below ``parent_id`` where it would stand too deep: each message in it would tell of all above.

    ``levels``: it and those below it.
    """
    if parent_id is None:
        return
    room = MAX_GOAL_DEPTH - levels
    lowest = at_depth(state.goals, parent_id, room) if room > 0 else None
    if lowest != parent_id:
        said = f"goals stand {MAX_GOAL_DEPTH} deep at most"
        said += f"; {lowest!r} above it may have children" if lowest is not None else ""
        raise GoalDepth(
            f"{path}: {said}",
            details=[{"path": path, "message": said, "parent_id": lowest}],
            parent_id=lowest,
            limit=MAX_GOAL_DEPTH,
        )


def _next_goal_id(state: State) -> str:
    number = max(state.next_goal, len(state.goals) + 1)
    while str(number) in state.goals:
        number += 1
    return str(number)


def _goal_added(state: State, stored: Stored) -> None:
    stored.pop("if_absent", None)
    given = stored["goal"]
    goal_id = given.get("id") or _next_goal_id(state)
    if goal_id in state.goals:
        raise GoalExists(f"there is a goal {goal_id!r} in this trace already", goal_id=goal_id)
    parent_id, after_id = given.get("parent_id"), given.get("after_id")
    if given.get("step_id") is not None:
        step = _known_step(state, given["step_id"], "goal.step_id")
        if "parent_id" not in given and after_id is None:
            parent_id = step["goal_id"]
    if parent_id is not None:
        _known_goal(state, parent_id, "goal.parent_id")
    if after_id is not None:
        sibling = _known_goal(state, after_id, "goal.after_id")
        if given.get("parent_id", sibling["parent_id"]) != sibling["parent_id"]:
            raise _refuse("goal.after_id", f"{after_id!r} is not a child of {parent_id!r}")
        parent_id = sibling["parent_id"]
    _check_depth(state, parent_id)
    status = given.get("status", "pending")
    goal = {
        "id": goal_id,
        "description": given["description"],
        "reason": given.get("reason"),
        "parent_id": parent_id,
        "type": given.get("type", "normal"),
        "status": status,
        "summary": given.get("summary"),
        "self_stats": empty_stats(),
        "cumulative_stats": empty_stats(),
        "sub_trace_ids": [],
    }
    for key, value in given.items():
        if key not in goal and (key != "after_id" or value is not None):
            goal[key] = value
    stored["goal"] = goal
    changed = reopen_up(state.goals, parent_id)
    if status in ("completed", "abandoned"):
        ended = cascade_up(state.goals, state.families, parent_id, None, status, changed)
        changed = {**changed, **ended}
        # A goal that reopens and completes again has not changed.
        changed = {g: c for g, c in changed.items() if c["status"] != state.goals[g]["status"]}
    stored["affected_goals"] = _affected(changed)


def _goal_updated(state: State, stored: Stored) -> None:
    goal = _known_goal(state, stored["goal_id"], "goal_id")
    status = stored["patch"].get("status", goal["status"])
    if not may_become(goal["status"], status):
        raise InvalidTransition(
            f"goal {goal['id']!r} is {goal['status']} and can't become {status}",
            goal_id=goal["id"],
            status=goal["status"],
        )
    moved = _goal_moved(state, goal, stored)
    if moved is not None:
        stored["affected_goals"] = _affected(moved)
        return
    ended = status != goal["status"] and status in ("completed", "abandoned")
    changed = cascade_up(state.goals, state.families, goal["parent_id"], goal["status"], status) if ended else {}
    stored["affected_goals"] = _affected(changed)


def _goal_moved(state: State, goal: Mapping[str, Any], stored: Stored) -> Changes | None:
    """The changes by a patch with another parent; None if it has none. Checks where the goal is to stand."""
    patch = stored["patch"]
    stored.pop("moved", None)  # only the server says it
    if "parent_id" not in patch and "step_id" not in patch:
        return None
    parent_id, step_id = patch.get("parent_id", goal["parent_id"]), patch.get("step_id", goal.get("step_id"))
    if parent_id is not None:
        _known_goal(state, parent_id, "patch.parent_id")
    if step_id is not None:
        _known_step(state, step_id, "patch.step_id")
    if ("goal", goal["id"]) in around(state, parent_id, step_id):
        key = "parent_id" if "parent_id" in patch else "step_id"
        raise _refuse(f"patch.{key}", f"{patch[key]!r} stands in {goal['id']!r}, or is it")
    if parent_id == goal["parent_id"]:
        return None
    if patch.get("status", goal["status"]) != goal["status"]:
        raise _refuse("patch.status", "a goal gets another parent or another status, not both at once")
    _check_depth(state, parent_id, levels_below(state.families, state.following, goal["id"]), "patch.parent_id")
    stored["moved"] = True
    return goal_moved(state, dict(goal), parent_id)


def _message_added(state: State, stored: Stored) -> None:
    stored.pop("if_absent", None)
    given = stored["message"]
    message_id = _own_id(given.get("message_id"), "m", stored["event_id"], "message.message_id")
    if message_id in state.messages:
        raise MessageExists(f"there is a message {message_id!r} in this trace already", message_id=message_id)
    goal_id = given["goal_id"] if "goal_id" in given else state.current_goal_id
    if given.get("step_id") is not None:
        step = _known_step(state, given["step_id"], "message.step_id")
        goal_id = given["goal_id"] if "goal_id" in given else step["goal_id"]
    if goal_id is not None:
        _known_goal(state, goal_id, "message.goal_id")
        goal_id = at_depth(state.goals, goal_id, MAX_GOAL_DEPTH)  # older logs have deeper ones
    message = {
        "message_id": message_id,
        "sequence": state.total_messages + state.in_flight + 1,
        "role": given["role"],
        "content": given["content"],
        "goal_id": goal_id,
        "description": given.get("description") or "",
        "status": given.get("status", "complete"),
    }
    for key, value in given.items():
        if key not in message:
            message[key] = value
    message.pop("counted", None)  # only the server says it
    waits = _is_in_flight(message)
    if waits:
        message["counted"] = False
    tool = tool_name(message)
    if not message["description"]:
        message["description"] = describe(message)
    stored["message"] = message
    stored["affected_goals"] = _affected(
        add_to_stats(
            state.goals,
            goal_id,
            messages=0 if waits else 1,
            tokens=message.get("tokens", 0),
            cost=message.get("cost"),
            usage=message.get("usage"),
            tool=tool,
        )
    )


def _is_in_flight(message: Mapping[str, Any]) -> bool:
    """Whether a message is a model call of which nothing has come yet: it does not count as a message."""
    return (
        message["status"] == "streaming" and message["role"] == "assistant" and message["content"] in ("", None, [], {})
    )


def _begins_to_count(message: Mapping[str, Any], stored: Stored) -> bool:
    """Whether a message that was in flight has text with this update, or is complete."""
    if message.get("counted") is not False or stored.get("append"):
        return message.get("counted") is False
    return not _is_in_flight({**message, **stored.get("patch", {})})


def _message_updated(state: State, stored: Stored) -> None:
    message_id = stored["message_id"]
    message = state.messages.get(message_id)
    if message is None:
        raise UnknownMessage(f"there is no message {message_id!r} in this trace", message_id=message_id)
    if "append" in stored:
        content = message["content"]
        if not isinstance(content, str):
            raise NotText(f"message {message_id!r} does not hold text, so nothing can be appended to it")
        if len(content) + len(stored["append"]) > MAX_MESSAGE_TEXT:
            raise MessageTooLarge(
                f"message {message_id!r} would grow above {MAX_MESSAGE_TEXT:,} characters; begin another",
                limit=MAX_MESSAGE_TEXT,
            )
    patch = stored.get("patch", {})
    if "counted" in patch:
        patch = stored["patch"] = {key: value for key, value in patch.items() if key != "counted"}
    stored.pop("counted", None)  # only the server says it
    counts = _begins_to_count(message, stored)
    tokens = patch.get("tokens", message.get("tokens", 0)) - message.get("tokens", 0)
    cost = (
        patch["cost"] - message.get("cost", 0.0) if "cost" in patch and patch["cost"] != message.get("cost") else None
    )
    usage = difference(patch["usage"], message.get("usage")) if "usage" in patch else None
    goal_id = _place_of_message(state, message, stored)
    stored.pop("totals", None)  # only the server gives the trace's sums; a recorder's are dropped
    if counts:
        stored["counted"] = True
    if tokens or usage or cost is not None or counts:
        _check_reach(state, message, patch)
        sums: dict[str, Any] = {
            "total_messages": plus(state.total_messages, int(counts)),
            "total_tokens": plus(state.total_tokens, tokens),
            "total_cost": max(0.0, round(plus(state.total_cost or 0.0, cost or 0.0), 10)),
        }
        if usage is not None:
            sums["usage"] = summed_usage(state.usage, usage) or {}
        stored["totals"] = sums
    if "moved" in stored:
        after = updated_message(message, stored)
        counted = message.get("counted") is not False
        changed = message_moved(state, message, after, counted=counted, counts=counted or counts)
    else:
        changed = add_to_stats(
            state.goals, goal_id, messages=int(counts), tokens=tokens, cost=cost, usage=usage, tool=None
        )
    stored["affected_goals"] = _affected(changed)


def _place_of_message(state: State, message: Mapping[str, Any], stored: Stored) -> str | None:
    """Write into the event where the message stands after it; its goal."""
    patch: dict[str, Any] = stored.get("patch", {})
    stored.pop("moved", None)  # only the server says it
    goal_id: str | None = message["goal_id"]
    stored["goal_id"] = goal_id
    if "goal_id" not in patch and "step_id" not in patch:
        return goal_id
    step_id = patch.get("step_id", message.get("step_id"))
    if patch.get("step_id") is not None:
        step = _known_step(state, patch["step_id"], "patch.step_id")
        if any(one["message_id"] == message["message_id"] for one in above(state.steps, step["id"])):
            raise _refuse("patch.step_id", f"{step_id!r} stands in this message")
        goal_id = step["goal_id"]
    goal_id = patch.get("goal_id", goal_id)
    if goal_id is not None:
        _known_goal(state, goal_id, "patch.goal_id")
        goal_id = at_depth(state.goals, goal_id, MAX_GOAL_DEPTH)
    stored["patch"], stored["goal_id"] = {**patch, "goal_id": goal_id}, goal_id
    if goal_id != message["goal_id"]:
        stored["moved"] = True
    return goal_id


def _check_reach(state: State, message: Mapping[str, Any], patch: Mapping[str, Any]) -> None:
    """Refuse new numbers for a message of an older log whose goal stands too deep."""
    goal_id = message["goal_id"]
    if goal_id in state.goals and at_depth(state.goals, goal_id, MAX_GOAL_DEPTH) != goal_id:
        said = f"the message's goal stands deeper than {MAX_GOAL_DEPTH}: its tokens and cost stay as they are"
        details = [{"path": f"patch.{key}", "message": said} for key in ("tokens", "cost") if key in patch]
        raise GoalDepth(f"message {message['message_id']!r}: {said}", details=details, limit=MAX_GOAL_DEPTH)


def _step_added(state: State, stored: Stored) -> None:
    stored.pop("if_absent", None)
    given = stored["step"]
    step_id = _own_id(given.get("id"), "s", stored["event_id"], "step.id")
    if step_id in state.steps:
        raise StepExists(f"there is a step {step_id!r} in this trace already", step_id=step_id)
    place = _place_of(state, given, "step")
    _check_step_depth(state, place["step_id"], 1, "step")
    step = {"id": step_id, "name": given["name"], "kind": given.get("kind", "span"), **place}
    step["status"] = given.get("status") or status_of(given)
    stored["step"] = {**step, **{key: value for key, value in given.items() if key not in step}}


def _step_updated(state: State, stored: Stored) -> None:
    step, patch = _known_step(state, stored["step_id"], "step_id"), dict(stored["patch"])
    if not patch.keys().isdisjoint(PLACE):
        place = {key: step[key] for key in PLACE}
        if patch.get("step_id") is not None or patch.get("message_id") is not None:
            place = {}  # it leaves where it was
        place = _place_of(state, {**place, **{key: patch[key] for key in PLACE if key in patch}}, "patch")
        holder = state.messages.get(place["message_id"] or "", {})
        if ("step", step["id"]) in around(state, place["goal_id"], place["step_id"] or holder.get("step_id")):
            key = next(key for key in ("step_id", "message_id", "goal_id") if key in patch)
            raise _refuse(f"patch.{key}", f"{patch[key]!r} stands in {step['id']!r}, or is it")
        _check_step_depth(state, place["step_id"], height(state.steps, step["id"]), "patch")
        patch |= place
    if "status" not in patch:
        status = status_of(patch, step["status"])
        if status != step["status"]:
            patch["status"] = status
    stored["patch"] = patch


def _place_of(state: State, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Where a step stands: without a goal of its own in that of the step or message that it names."""
    step_id, message_id = given.get("step_id"), given.get("message_id")
    holder: Mapping[str, Any] = {"goal_id": state.current_goal_id}
    if step_id is not None and message_id is not None:
        raise _refuse(f"{path}.message_id", "a step stands in a step or in a message, not in both")
    if step_id is not None:
        holder = _known_step(state, step_id, f"{path}.step_id")
    if message_id is not None:
        if message_id not in state.messages:
            raise UnknownMessage(
                f"{path}.message_id: there is no message {message_id!r} in this trace", message_id=message_id
            )
        holder = state.messages[message_id]
    goal_id = given["goal_id"] if "goal_id" in given else holder["goal_id"]
    if goal_id is not None and "goal_id" in given:
        _known_goal(state, goal_id, f"{path}.goal_id")
    return {"goal_id": goal_id, "step_id": step_id, "message_id": message_id}


def _check_step_depth(state: State, step_id: str | None, levels: int, path: str) -> None:
    """Refuse ``levels`` of steps in ``step_id`` where the lowest of them would stand too deep."""
    line = [step["id"] for step in above(state.steps, step_id)]
    room = MAX_STEP_DEPTH - levels
    if len(line) > room:
        lowest = line[len(line) - room] if room > 0 else None
        said = f"steps stand {MAX_STEP_DEPTH} deep at most"
        said += f"; {lowest!r} above may have steps in it" if lowest is not None else ""
        raise StepDepth(
            f"{path}.step_id: {said}",
            details=[{"path": f"{path}.step_id", "message": said, "step_id": lowest}],
            step_id=lowest,
            limit=MAX_STEP_DEPTH,
        )


def _with_totals(state: State, stored: Stored) -> None:
    stored.update(state.totals())
    stored["total_cost"] = state.total_cost or 0.0


def _input_requested(state: State, stored: Stored) -> None:
    stored.pop("if_absent", None)
    request_id = _own_id(stored.get("request_id"), "r", stored["event_id"], "request_id")
    if request_id in state.pending_inputs or request_id in state.closed_inputs:
        raise RequestExists(f"question {request_id!r} was asked in this trace already", request_id=request_id)
    goal_id = stored["goal_id"] if "goal_id" in stored else state.current_goal_id
    if goal_id is not None:
        _known_goal(state, goal_id, "goal_id")
    expires_in_s = stored.get("expires_in_s")
    stored["request_id"] = request_id
    stored["goal_id"] = goal_id
    stored["expires_at"] = None if expires_in_s is None else format_time(parse_time(stored["ts"]) + expires_in_s)


def _input_closed(state: State, stored: Stored) -> None:
    if stored["request_id"] not in state.pending_inputs:
        raise UnknownRequest(f"question {stored['request_id']!r} is not open", request_id=stored["request_id"])


_RULES: dict[str, Callable[[State, Stored], None]] = {
    "goal_added": _goal_added,
    "goal_updated": _goal_updated,
    "message_added": _message_added,
    "message_updated": _message_updated,
    "step_added": _step_added,
    "step_updated": _step_updated,
    "trace_status_changed": _with_totals,
    "trace_completed": _with_totals,
    "input_requested": _input_requested,
    "input_provided": _input_closed,
    "input_expired": _input_closed,
}
