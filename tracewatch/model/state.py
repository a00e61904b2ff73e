"""The fold: a trace's state, and how one stored event changes it.

Rule 1: ``complete`` (rules.py) decides the effects of an event and writes them into it. ``apply`` here only does as the
        stored event says. So every client folds alike, whatever snapshot it begins from.
Rule 2: ``apply`` never fails on an event that ``validate_stored`` passes, and an older event changes nothing.
Rule 3: values inside a state are replaced, never changed in place. So ``State.copy`` is shallow and cheap, also that
        of a state with many goals: what an event costs depends on what it changes, not on what there is.
Rule 4: times are those of what happened: ``occurred_at``, else ``ts``. Nothing ends before it started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from .blobs import is_reference, shown
from .canonical import ENDED, GOAL_ENDED, MAX_LINKS, MAX_TOTAL, OPEN_STATUSES, SERVER_EVENTS, TERMINAL
from .goals import (
    Family,
    Goal,
    add_child,
    children_of,
    count_status,
    current_after,
    in_display_order,
    plus,
    remove_child,
)
from .layered import SMALL, shared
from .steps import Step, added_step, updated_step
from .times import before, time_of
from .usage import Usage, known_cost, summed_cost, summed_usage

Event = Mapping[str, Any]
TOTALS = ("total_messages", "total_tokens", "total_cost")
MAX_MODELS = 20  # of a trace that are listed; a run that uses more is a comparison of models
AFFECTED = ("status", "self_stats", "cumulative_stats")  # keys that an event may change in goals it does not name
# Spelled out, and counted in code points, so that clients in every language find the same line
_FIRST_LINE = re.compile(r"[ \t\r\n]*([^\r\n]{0,200})")
_TOOL_NAME_LENGTH = 128


def summed(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Sums over a tree as the protocol shows them: none above ``MAX_TOTAL``, marked ``saturated`` where one got there.

    A cost of None is unknown. NaN is what a database has of a sum that had overflowed.
    """
    cost = sums["total_cost"]
    compared = {**sums, "total_cost": 0.0 if cost is None else cost}
    over = [key for key in TOTALS if compared[key] is None or not compared[key] < MAX_TOTAL]
    shown: dict[str, Any] = {key: MAX_TOTAL if key in over else sums[key] for key in TOTALS}
    if cost is not None:
        shown["total_cost"] = max(0.0, round(float(shown["total_cost"]), 10))  # differences of floats may miss zero
    if sums.get("usage"):
        shown["usage"] = {part: min(count, MAX_TOTAL) for part, count in sums["usage"].items()}
    return {**shown, "saturated": True} if over or sums.get("saturated") else shown


@dataclass(slots=True)
class State:
    """A trace after some number of its events.

    ``messages`` holds every message a folding client has seen; the log's writer keeps only those that may still change.
    """

    trace_id: str
    task: str = ""
    agent_type: str = "agent"
    parent_trace_id: str | None = None
    parent_goal_id: str | None = None
    root_trace_id: str = ""
    created_at: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    status: str = "running"
    summary: str | None = None
    error: Any = None
    updated_at: str = ""
    completed_at: str | None = None
    first_event_id: int = 1  # the first event that the log still holds
    last_event_id: int = 0  # the event that this state is after
    total_messages: int = 0
    total_tokens: int = 0
    total_cost: float | None = None  # None: no message had one
    usage: Usage | None = None  # None: no message had one
    in_flight: int = 0  # model calls that are messages, and do not count as such yet
    models: tuple[str, ...] = ()  # in the order of their first use
    session_id: str | None = None
    user_id: str | None = None
    tags: tuple[str, ...] = ()
    links: tuple[dict[str, Any], ...] = ()  # to other traces
    started_at: str | None = None  # as given, else of the first event
    ended_at: str | None = None
    active_at: str | None = None  # of the latest event
    goals: MutableMapping[str, Goal] = field(default_factory=dict)
    families: MutableMapping[str | None, Family] = field(default_factory=dict)  # by parent; None: the roots
    following: MutableMapping[str, str] = field(default_factory=dict)  # the sibling behind a goal
    next_goal: int = 1  # no smaller number can become a goal's id
    current_goal_id: str | None = None
    sub_traces: MutableMapping[str, dict[str, Any]] = field(default_factory=dict)
    pending_inputs: MutableMapping[str, dict[str, Any]] = field(default_factory=dict)  # open questions, oldest first
    closed_inputs: MutableMapping[str, str] = field(default_factory=dict)  # request_id: answered, expired or closed
    steps: MutableMapping[str, Step] = field(default_factory=dict)
    cancel_requested: dict[str, Any] | None = None  # {reason, by} of a cancel not yet acknowledged
    messages: MutableMapping[str, dict[str, Any]] = field(default_factory=dict)

    def copy(self) -> State:
        """A copy that can be changed without changing this state."""
        sizes = len(self.goals), len(self.sub_traces), len(self.closed_inputs), len(self.messages), len(self.steps)
        if max(sizes) > SMALL:
            for name in _MAPS:
                setattr(self, name, shared(getattr(self, name)))
        after = State(*_VALUES(self))  # a fifth of the time of dataclasses.replace, and each append makes a copy
        after.goals = self.goals.copy()  # type: ignore[attr-defined]
        after.families = self.families.copy()  # type: ignore[attr-defined]
        after.following = self.following.copy()  # type: ignore[attr-defined]
        after.sub_traces = self.sub_traces.copy()  # type: ignore[attr-defined]
        after.pending_inputs = self.pending_inputs.copy()  # type: ignore[attr-defined]
        after.closed_inputs = self.closed_inputs.copy()  # type: ignore[attr-defined]
        after.messages = self.messages.copy()  # type: ignore[attr-defined]
        if self.steps:
            after.steps = self.steps.copy()  # type: ignore[attr-defined]
        else:
            after.steps = {}
        return after

    def children(self, parent_id: str | None) -> list[str]:
        """The ids of a goal's children (None: of the roots), in the order to show them in."""
        return children_of(self.families, self.following, parent_id)

    def add_goal(self, goal: Goal, after_id: str | None = None) -> None:
        """Put in a new goal behind its sibling ``after_id``, or as its parent's last child."""
        self.goals[goal["id"]] = goal
        add_child(self.families, self.following, goal, after_id)

    def set_goal(self, goal: Goal) -> None:
        """Put in a goal in the place of its older form."""
        was = self.goals[goal["id"]]
        self.goals[goal["id"]] = goal
        count_status(self.families, was["parent_id"], was["status"], goal["status"])

    def move_goal(self, goal: Goal, parent_id: str | None) -> Goal:
        """Make a goal the last child of another parent; its new form."""
        remove_child(self.families, self.following, goal)
        moved = {**goal, "parent_id": parent_id}
        self.add_goal(moved)
        return moved

    @property
    def ended(self) -> bool:
        """Whether the trace is completed, failed or stopped."""
        return self.status in ENDED

    # --- as the protocol shows it ---

    def totals(self) -> dict[str, Any]:
        """The trace's own sums, without its sub-traces."""
        return {
            "total_messages": self.total_messages,
            "total_tokens": self.total_tokens,
            "total_cost": self.total_cost,
            **({} if self.usage is None else {"usage": self.usage}),
        }

    def tree_totals(self) -> dict[str, Any]:
        """The trace's own sums plus those of its sub-traces."""
        sums, usage = self.totals(), self.usage
        for sub in self.sub_traces.values():
            stats = sub["stats"]
            sums["total_messages"] = plus(stats["total_messages"], sums["total_messages"])
            sums["total_tokens"] = plus(stats["total_tokens"], sums["total_tokens"])
            sums["total_cost"] = summed_cost(sums["total_cost"], stats["total_cost"])
            usage = summed_usage(usage, stats.get("usage"))
            if stats.get("saturated"):
                sums["saturated"] = True
        return summed({**sums, "usage": usage})

    def trace(self, *, lease_alive: bool = True) -> dict[str, Any]:
        """The trace's summary, ``Trace`` in the protocol. ``lease_alive``: its recorder is alive by its lease."""
        return {
            "trace_id": self.trace_id,
            "task": self.task,
            "agent_type": self.agent_type,
            "parent_trace_id": self.parent_trace_id,
            "parent_goal_id": self.parent_goal_id,
            "root_trace_id": self.root_trace_id,
            "status": self.status,
            "is_running": self.status in ("running", "waiting") and lease_alive,
            "current_goal_id": self.current_goal_id,
            "first_event_id": self.first_event_id,
            "last_event_id": self.last_event_id,
            **self.totals(),
            "tree_totals": self.tree_totals(),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "completed_at": self.completed_at,
            "started_at": self.started_at or self.created_at,
            "ended_at": self.ended_at,
            "active_at": self.active_at or self.created_at,
            "summary": self.summary,
            "error": self.error,
            "session_id": self.session_id,
            "user_id": self.user_id,
            "tags": list(self.tags),
            "models": list(self.models),
            **({"links": list(self.links)} if self.links else {}),
            "metadata": self.metadata,
        }

    def goal_tree(self) -> dict[str, Any]:
        """The goal tree, ``GoalTree`` in the protocol, with its goals depth first."""
        return {
            "mission": self.task,
            "current_id": self.current_goal_id,
            "goals": in_display_order(self.goals, self.families, self.following),
            "as_of_event_id": self.last_event_id,
        }

    # --- as the log keeps it ---

    def to_json(self) -> dict[str, Any]:
        """The state as the log keeps it in a snapshot: without messages, which have a table of their own."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_KEPT}
        kept |= {name: dict(kept[name]) for name in _MAPS if name in kept}
        kept["children"] = [[parent, self.children(parent)] for parent in self.families]
        for name in _TUPLES:
            kept[name] = list(kept[name])  # equal before and after a trip through JSON
        return {name: value for name, value in kept.items() if value or name not in _SELDOM}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> State:
        """The state that ``to_json`` wrote."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in kept.items() if name in known}
        for name in _TUPLES:
            values[name] = tuple(kept.get(name, ()))
        state = cls(**values).copy()  # ``kept`` stays as it is
        state.total_messages, state.total_tokens = plus(state.total_messages, 0), plus(state.total_tokens, 0)
        if "active_at" not in kept:  # of an old log, where a sum that had overflowed was None
            state.total_cost = plus(state.total_cost, 0)
        for parent_id, ids in kept["children"]:
            for goal_id in ids:
                if state.goals[goal_id]["parent_id"] != parent_id:
                    raise ValueError(f"goal {goal_id!r} stands below two others")
                add_child(state.families, state.following, state.goals[goal_id], None)
        return state

    @classmethod
    def from_snapshot(cls, frame: Mapping[str, Any]) -> State:
        """The state in a ``connected`` or ``snapshot`` frame whose goal tree is complete."""
        trace, tree = frame["trace"], frame["goal_tree"]
        named = {f.name for f in fields(cls)} & set(trace)
        state = cls(**{name: trace[name] for name in named})
        state.tags, state.models = tuple(trace.get("tags", ())), tuple(trace.get("models", ()))
        state.links = tuple(trace.get("links", ()))
        state.last_event_id = frame["current_event_id"]
        if state.last_event_id < state.first_event_id:  # nothing has happened yet
            state.active_at = None
            state.started_at = None if state.started_at == state.created_at else state.started_at
        for goal in tree["goals"]:
            state.add_goal(goal)
        state.sub_traces = {sub["trace_id"]: sub for sub in frame["sub_traces"]}
        state.pending_inputs = {asked["request_id"]: asked for asked in frame["pending_inputs"]}
        state.in_flight = frame.get("in_flight", 0)
        state.steps = {step["id"]: step for step in frame.get("steps", ())}
        return state


_VALUES = attrgetter(*(one.name for one in fields(State)))  # in the order in which State takes them
_MAPS = ("goals", "families", "following", "sub_traces", "pending_inputs", "closed_inputs", "messages", "steps")
_NOT_KEPT = ("messages", "families", "following", "next_goal")  # what follows from the rest, or has its own table
_TUPLES = ("tags", "models", "links")
_SELDOM = ("in_flight", "steps", "links")  # kept only where there is something


def apply(state: State, event: Event) -> State:
    """The state after one stored event; ``state`` itself stays as it is. An event already applied changes nothing."""
    after = state.copy()
    apply_into(after, event)
    return after


def apply_into(state: State, event: Event) -> None:
    """As ``apply``, but change ``state`` itself. This is for callers that own it and fold many events."""
    if event["event_id"] <= state.last_event_id:
        return
    name = event["event"]
    state.last_event_id = event["event_id"]
    state.updated_at = event["ts"]
    when = time_of(event)
    if state.started_at is None:
        state.started_at = when
    if (state.active_at is None or state.active_at < when) and event.get("status") != "lost":
        state.active_at = when
    if state.status == "lost" and (
        name not in SERVER_EVENTS or (name == "input_provided" and event.get("by") == TERMINAL)
    ):
        # An event of a recorder shows that it is alive
        state.status = "waiting" if state.pending_inputs else "running"
    handler = _HANDLERS.get(name)
    if handler is not None:
        handler(state, event)


def _affect(state: State, event: Event, *, costed: bool = False) -> None:
    moved = "moved" in event
    for change in event["affected_goals"]:
        goal = state.goals.get(change["goal_id"])
        if goal is not None:
            new = {**goal, **{key: change[key] for key in AFFECTED if key in change}}
            for key in ("self_stats", "cumulative_stats"):
                if key in change:
                    written = change[key]["total_cost"]
                    if moved:  # then it says itself whether the cost is known
                        stats = {name: value for name, value in change[key].items() if name != "cost_known"}
                        known = written or "cost_known" in change[key]
                        new[key] = stats if known else {**stats, "total_cost": None}
                        continue
                    cost = known_cost(written, goal[key]["total_cost"], costed=costed)
                    if cost is not written:
                        new[key] = {**change[key], "total_cost": cost}
            if "status" in change:
                state.set_goal(_timed(goal, new, time_of(event)))
            else:
                state.goals[goal["id"]] = new


def _timed(before: Goal | None, goal: Goal, when: str) -> Goal:
    """``goal`` (the caller's own) with the times that follow from its status. ``before``: None if it is new."""
    status = goal["status"]
    if before is None:
        goal.setdefault("started_at", None if status == "pending" else when)
        goal.setdefault("ended_at", when if status in GOAL_ENDED else None)
    elif status != before["status"]:
        if status in GOAL_ENDED:
            goal["ended_at"] = max(when, goal.get("started_at") or when)
        else:
            goal["ended_at"] = None
            goal["started_at"] = goal.get("started_at") or when
    return goal


def _goal_added(state: State, event: Event) -> None:
    goal = dict(event["goal"])
    after_id = goal.pop("after_id", None)
    parent_id, goal_id = goal["parent_id"], goal["id"]
    if goal_id in state.goals or (parent_id is not None and parent_id not in state.goals):
        return
    for key in ("self_stats", "cumulative_stats"):
        if not goal[key]["total_cost"]:
            goal[key] = {**goal[key], "total_cost": None}
    _timed(None, goal, time_of(event))
    sibling = state.goals.get(after_id) if after_id is not None else None
    state.add_goal(goal, after_id if sibling is not None and sibling["parent_id"] == parent_id else None)
    state.next_goal = max(state.next_goal, len(state.goals) + 1)
    while str(state.next_goal) in state.goals:
        state.next_goal += 1
    reopened = (c["goal_id"] for c in event["affected_goals"] if c.get("status") == "in_progress")  # nearest first
    _affect(state, event)
    started = goal_id if goal["status"] == "in_progress" else next((g for g in reopened if g in state.goals), None)
    state.current_goal_id = current_after(state.goals, state.current_goal_id, started)


def _goal_updated(state: State, event: Event) -> None:
    goal = state.goals.get(event["goal_id"])
    if goal is None:
        return
    patch = event["patch"]
    started = patch.get("status") == "in_progress" and goal["status"] != "in_progress"
    if "moved" in event and (patch["parent_id"] is None or patch["parent_id"] in state.goals):
        goal = state.move_goal(goal, patch["parent_id"])
    state.set_goal(_timed(goal, {**goal, **event["patch"]}, time_of(event)))
    _affect(state, event)
    state.current_goal_id = current_after(state.goals, state.current_goal_id, goal["id"] if started else None)


def _message_added(state: State, event: Event) -> None:
    message = added_message(event)
    state.messages[message["message_id"]] = message
    if message.get("counted") is False:
        state.in_flight += 1
    else:
        state.total_messages += 1
    state.total_tokens += message.get("tokens", 0)
    if state.total_tokens > MAX_TOTAL:
        state.total_tokens = MAX_TOTAL
    costed = "cost" in message
    if costed:
        state.total_cost = summed_cost(state.total_cost, message["cost"])
    if "usage" in message:
        state.usage = summed_usage(state.usage, message["usage"])
    if "model" in message:
        _used(state, message["model"])
    _affect(state, event, costed=costed)


def _used(state: State, model: str) -> None:
    if model and model not in state.models and len(state.models) < MAX_MODELS:
        state.models = (*state.models, model)


def added_message(event: Event) -> dict[str, Any]:
    """The message of a stored ``message_added``, with what follows from it: its times and the source of its cost."""
    message = dict(event["message"])
    when = time_of(event)
    if "cost" in message:
        message.setdefault("cost_source", "given")
    if message["status"] != "complete":
        message.setdefault("started_at", when)
        message.setdefault("ended_at", None)
        return message
    ended = message.get("ended_at") or when
    started = message.get("started_at") or before(ended, message.get("duration_ms"))
    message["started_at"], message["ended_at"] = started, max(started, ended)
    return message


def _message_updated(state: State, event: Event) -> None:
    message = state.messages.get(event["message_id"])
    if message is not None:
        state.messages[event["message_id"]] = updated_message(message, event)
    patch = event.get("patch", {})
    costed = "cost" in patch
    if event.get("counted"):
        state.in_flight -= 1
    if "totals" in event:
        totals = event["totals"]
        state.total_messages, state.total_tokens = plus(totals["total_messages"], 0), plus(totals["total_tokens"], 0)
        state.total_cost = known_cost(totals["total_cost"], state.total_cost, costed=costed)
        state.usage = totals.get("usage", state.usage) or None
    if "model" in patch:
        _used(state, patch["model"])
    _affect(state, event, costed=costed)


def updated_message(message: Mapping[str, Any], event: Event) -> dict[str, Any]:
    """A message after a ``message_updated``: the text appended first, then the patch."""
    new = dict(message)
    patch = event.get("patch", {})
    if "append" in event and isinstance(new["content"], str):
        new["content"] += event["append"]
    new.update(patch)
    if event.get("counted"):
        new.pop("counted", None)
    if "cost" in patch and "cost_source" not in patch:
        new["cost_source"] = "given"
    if new.get("status") != message.get("status") and "ended_at" not in patch:
        new["ended_at"] = time_of(event) if new.get("status") == "complete" else None
    if new.get("ended_at") and new["ended_at"] < (new.get("started_at") or ""):
        new["ended_at"] = new["started_at"]
    # A derived description follows the content, because a streamed text begins with half a word
    if "description" not in patch and message["description"] in ("", describe(message)):
        new["description"] = describe(new)
    return new


def has_first_line(message: Mapping[str, Any]) -> bool:
    """Whether a message's text has a whole first line, so that more text can't change its description."""
    content = message["content"]
    first = _FIRST_LINE.match(content) if isinstance(content, str) else None
    return first is not None and first.end() < len(content)


def describe(message: Mapping[str, Any]) -> str:
    """A message's description: its tool's name, else the first non-blank line of its text, up to 200 characters."""
    content = message["content"]
    if message["role"] == "tool":
        tool = tool_name(message)
        if tool:
            return tool
    if isinstance(content, list):  # content parts, as several model APIs write them
        content = next((text for text in map(_text_of, content) if text is not None), "")
    elif isinstance(content, dict):
        content = _text_of(content)
    first = _FIRST_LINE.match(content) if isinstance(content, str) else None
    return first[1].rstrip(" \t") if first else ""


def _text_of(part: Any) -> str | None:
    """The text of a part of a message: its ``text``, or the preview of content that stands beside the log."""
    if not isinstance(part, dict):
        return None
    text = shown(part if is_reference(part) else part.get("text"))
    return text if isinstance(text, str) else None


def tool_name(message: Mapping[str, Any]) -> str | None:
    """The name of the tool in a tool message; None for other messages."""
    if message["role"] != "tool":
        return None
    content = message["content"]
    if isinstance(content, dict):
        for key in ("tool_name", "name"):
            if isinstance(content.get(key), str) and content[key]:
                return str(content[key])[:_TOOL_NAME_LENGTH]
    return message.get("description", "")[:_TOOL_NAME_LENGTH] or None


def _step_added(state: State, event: Event) -> None:
    step = added_step(event)
    if step["id"] not in state.steps:
        state.steps[step["id"]] = step


def _step_updated(state: State, event: Event) -> None:
    step = state.steps.get(event["step_id"])
    if step is not None:
        state.steps[step["id"]] = updated_step(step, event)


def _sub_trace_started(state: State, event: Event) -> None:
    sub_id, goal = event["sub_trace_id"], state.goals.get(event["parent_goal_id"])
    again = sub_id in state.sub_traces
    state.sub_traces[sub_id] = {
        "trace_id": sub_id,
        "parent_goal_id": event["parent_goal_id"],
        "agent_type": event["agent_type"],
        "task": event["task"],
        "status": "running",
        "summary": None,
        "error": None,
        "stats": {"total_messages": 0, "total_tokens": 0, "total_cost": None},
        **{key: event[key] for key in ("parent_step_id", "parent_message_id") if key in event},
        "started_event_id": event["event_id"],
        "started_at": event.get("started_at") or time_of(event),
        "ended_at": None,
    }
    if goal is not None and not (again and sub_id in goal["sub_trace_ids"]):
        state.goals[goal["id"]] = {**goal, "sub_trace_ids": [*goal["sub_trace_ids"], sub_id]}


def _sub_trace_completed(state: State, event: Event) -> None:
    sub = state.sub_traces.get(event["sub_trace_id"])
    if sub is None:
        return
    stats = event["stats"]
    if not stats["total_cost"] and not stats.get("cost_known"):
        stats = {**stats, "total_cost": None}
    started = event.get("started_at") or sub.get("started_at")
    state.sub_traces[sub["trace_id"]] = {
        **sub,
        "status": event["status"],
        "summary": event["summary"],
        "error": event.get("error"),
        "stats": {key: value for key, value in stats.items() if key != "cost_known"},
        "started_at": started,
        "ended_at": max(event.get("ended_at") or time_of(event), started or ""),
    }


def _sub_trace_left(state: State, event: Event) -> None:
    sub = state.sub_traces.pop(event["sub_trace_id"], None)
    goal = None if sub is None else state.goals.get(sub["parent_goal_id"])
    if sub is not None and goal is not None:
        left = [one for one in goal["sub_trace_ids"] if one != sub["trace_id"]]
        state.goals[goal["id"]] = {**goal, "sub_trace_ids": left}


def _trace_parent_changed(state: State, event: Event) -> None:
    state.parent_trace_id, state.parent_goal_id = event["parent_trace_id"], event["parent_goal_id"]
    state.root_trace_id = event["root_trace_id"]


def with_links(links: tuple[dict[str, Any], ...], more: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The links with those that are not there, as far as there is room."""
    known = {_end_of(link): link for link in links}
    for link in more:
        if len(known) < MAX_LINKS:
            known.setdefault(_end_of(link), link)
    return tuple(known.values())


def _end_of(link: Mapping[str, Any]) -> tuple[Any, ...]:
    return link["kind"], link["trace_id"], link.get("message_id")


def _trace_updated(state: State, event: Event) -> None:
    for key in ("task", "agent_type", "session_id", "user_id", "started_at"):
        if key in event:
            setattr(state, key, event[key])
    if "tags" in event:
        state.tags = tuple(event["tags"])
    if "links" in event:
        state.links = with_links(state.links, event["links"])
    if "metadata" in event:
        state.metadata = {**state.metadata, **event["metadata"]}
    if state.ended_at is not None and state.started_at is not None:
        state.ended_at = max(state.ended_at, state.started_at)


def _set_status(state: State, event: Event) -> None:
    status = event["status"]
    if status in ENDED:
        _end(state, event)
        return
    if state.ended:
        if status in ("lost", "idle"):
            return  # it comes too late: an ended trace keeps its status
        state.completed_at = state.ended_at = state.summary = state.error = None
        state.cancel_requested = None
    if status in OPEN_STATUSES:
        status = "waiting" if state.pending_inputs else status
    state.status = status


def _end(state: State, event: Event) -> None:
    if state.ended:
        return
    state.status = event["status"]
    state.completed_at = event["ts"]
    state.ended_at = max(time_of(event), state.started_at or "")
    summary = event.get("summary")
    state.summary = summary if isinstance(summary, str) else None  # a trace_status_changed may carry anything there
    state.error = event.get("error")
    state.cancel_requested = None
    for request_id in state.pending_inputs:
        state.closed_inputs[request_id] = "closed"
    state.pending_inputs = {}


def _input_requested(state: State, event: Event) -> None:
    asked = {key: value for key, value in event.items() if key not in ("event", "event_id", "trace_id", "occurred_at")}
    asked["requested_at"] = asked.pop("ts")
    if state.ended:
        state.closed_inputs[event["request_id"]] = "closed"
        return
    state.pending_inputs[event["request_id"]] = asked
    if state.status in ("running", "idle"):
        state.status = "waiting"


def _close_input(how: str) -> Callable[[State, Event], None]:
    def close(state: State, event: Event) -> None:
        if state.pending_inputs.pop(event["request_id"], None) is None:
            return
        state.closed_inputs[event["request_id"]] = how
        if not state.pending_inputs and state.status == "waiting":
            state.status = "running"

    return close


def _cancel_requested(state: State, event: Event) -> None:
    if not state.ended:
        state.cancel_requested = {"reason": event.get("reason"), "by": event.get("by")}


_HANDLERS: dict[str, Callable[[State, Event], None]] = {
    "goal_added": _goal_added,
    "goal_updated": _goal_updated,
    "message_added": _message_added,
    "message_updated": _message_updated,
    "step_added": _step_added,
    "step_updated": _step_updated,
    "sub_trace_started": _sub_trace_started,
    "sub_trace_completed": _sub_trace_completed,
    "trace_status_changed": _set_status,
    "trace_completed": _end,
    "sub_trace_left": _sub_trace_left,
    "trace_updated": _trace_updated,
    "trace_parent_changed": _trace_parent_changed,
    "input_requested": _input_requested,
    "input_provided": _close_input("answered"),
    "input_expired": _close_input("expired"),
    "cancel_requested": _cancel_requested,
}
