"""From stored events to rows: what the tables hold of messages, questions and the trace itself.

The writer makes its rows here, and the doctor compares what is stored with the same rows.

Rule 1: rows are made of what the events say and of the states before and after them; nothing is asked of a database.
Rule 2: a question's row is open if and only if the question is in ``pending_inputs`` of the state. The states before
        and after are compared, so every way in which a question can end counts.
Rule 3: a message that streams, or a long one, is not written at each update, which would write its whole text again
        and again. Its row has a body as of event ``as_of``, and readers apply the updates behind that. The body is
        written when the text has grown by an eighth, when a short message is complete, and at each boundary, which is
        every 500 events. So nobody has to look further back than a boundary, and the events before it may be trimmed.
Rule 4: a complete message that few updates made stands in its events and not in its row as well: the row says in which.
        Only where nothing was ever trimmed, so that the events go after the row.
Rule 5: a snapshot is kept at a boundary if the log has grown since the last one by as much as that takes. So what all
        snapshots of a trace take is bounded by what its log takes, also of one with very many goals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from ..model.state import Event, State, added_message, has_first_line, updated_message
from ..model.times import parse_time
from .row import DAMAGED, TraceRow, object_of
from .storage import BodyRow, ClosedInput, InputRow, MessageRow, StoredMessage
from .sums import Sums

SNAPSHOT_EVERY = 500  # events; the protocol's page, so that opening a trace folds no more than one page
MADE_OF = b'{"made_of":'  # so begins the body of a row whose message is what these events make of it
_CONTENT_IN = b'{"content_in":'  # the same of versions before: only the content stands in the event
WORTH_BYTES = 512  # of a body that is not written twice
MOST_UPDATES = 8  # of a message that is put together again whenever it is read
GROWTH = 8  # a text is written again when it has grown by one part in so many
LONG = 65_536  # characters: a text of so many is not written again for each small update


NOTED = frozenset(
    {
        *("message_added", "message_updated", "sub_trace_started", "sub_trace_completed", "sub_trace_left"),
        *("input_requested", "input_provided", "input_expired"),
        *("trace_completed", "trace_status_changed"),
        "trace_updated",
    }
)
# What these events say stays in the state of the trace when they are trimmed, and so does the content that they name
OF_THE_STATE = frozenset(
    {
        *("goal_added", "goal_updated", "sub_trace_started", "sub_trace_completed"),
        *("trace_status_changed", "trace_completed", "trace_updated", "cancel_requested"),
        *("input_requested", "input_provided", "input_expired"),
    }
)


@dataclass(slots=True)
class Noted:
    """What new events of a trace did, as far as the states before and after do not say it."""

    added: dict[str, tuple[int, str | None, int]] = field(default_factory=dict)  # message: sequence, goal, event_id
    updated: dict[str, tuple[int, ...]] = field(default_factory=dict)  # messages: the events that updated them
    moved: dict[str, str | None] = field(default_factory=dict)  # messages: their goals from now on
    told: set[str] = field(default_factory=set)  # sub-traces
    asked: dict[str, Event] = field(default_factory=dict)  # request_id: input_requested
    answers: dict[str, Event] = field(default_factory=dict)  # request_id: input_provided
    opened: dict[str, int] = field(default_factory=dict)  # request_id: the event_id that stands for one trimmed away
    closed: list[str] = field(default_factory=list)  # questions, those that were not open among them
    may_have_ended: bool = False  # the trace, and all its questions with it
    renamed: bool = False  # a trace_updated was among them

    def note(self, event: Event, messages: Mapping[str, Any]) -> None:
        """Look at one new event. ``messages``: those that an update can find."""
        name = event["event"]
        if name == "message_added":
            message = event["message"]
            self.added[message["message_id"]] = (message["sequence"], message["goal_id"], event["event_id"])
        elif name == "message_updated":
            if event["message_id"] in messages:
                self._update(event["message_id"], (event["event_id"],))
                if "moved" in event:
                    self.moved[event["message_id"]] = event["goal_id"]
        elif name in ("sub_trace_started", "sub_trace_completed", "sub_trace_left"):
            self.told.add(event["sub_trace_id"])
        elif name == "input_requested":
            self.asked[event["request_id"]] = event
        elif name in ("input_provided", "input_expired"):
            self.closed.append(event["request_id"])
            if name == "input_provided":
                self.answers[event["request_id"]] = event
        elif name == "trace_updated":
            self.renamed = True
        else:
            self.may_have_ended = True

    def extend(self, later: Noted) -> None:
        """Put in what came after this."""
        self.added.update(later.added)
        for message_id, updates in later.updated.items():
            self._update(message_id, updates)
        self.moved.update(later.moved)
        self.told |= later.told
        self.asked.update(later.asked)
        self.answers.update(later.answers)
        self.closed += later.closed
        self.may_have_ended = self.may_have_ended or later.may_have_ended
        self.renamed = self.renamed or later.renamed

    def _update(self, message_id: str, updates: tuple[int, ...]) -> None:
        """Note updates of a message: all of them as long as they are few."""
        self.updated[message_id] = (*self.updated.get(message_id, ()), *updates)[: MOST_UPDATES + 1]


class OpenRow(NamedTuple):
    """What is known of the row of a message that will change."""

    length: int | None  # of its text in the row, which may be behind; None: it is no text, or the row is not behind
    updates: tuple[int, ...] | None  # all that there were; None: not all are known, or they are too many


# --- the trace -------------------------------------------------------------------------------------------------


def trace_row(
    row: TraceRow, state: State, log_bytes: int, lease_expires_at: float | None, *, renamed: bool
) -> TraceRow:
    """The row of a trace whose state is now ``state``. ``renamed``: its metadata may be others than the row's."""
    return TraceRow(  # in the order of its fields: dataclasses.replace takes five times as long, at every append
        row.trace_key,
        row.trace_id,
        row.spec,
        state.task,
        state.agent_type,
        row.parent_trace_id,
        row.parent_goal_id,
        row.root_trace_id,
        orjson.dumps(state.metadata).decode() if renamed else row.metadata,
        state.status,
        state.current_goal_id,
        state.first_event_id,
        state.last_event_id,
        log_bytes,
        *Sums.of(state.totals()),
        *row.tree(),
        row.created_at,
        state.updated_at,
        state.completed_at,
        state.started_at or row.created_at,
        state.ended_at,
        state.active_at or row.created_at,
        state.session_id,
        state.user_id,
        _list(state.tags),
        _list(state.models),
        _list(state.links),
        state.summary,
        None if state.error is None else orjson.dumps(state.error).decode(),
        row.lease_s,
        lease_expires_at,
        row.apart,
        row.moved,
        row.cover_key,
    )


def _list(values: tuple[Any, ...]) -> str:
    return orjson.dumps(values).decode() if values else "[]"


# --- messages --------------------------------------------------------------------------------------------------


def is_open(message: Mapping[str, Any]) -> bool:
    """Whether a message is a text that is not complete."""
    return message["status"] != "complete" and isinstance(message["content"], str)


def is_long(message: Mapping[str, Any]) -> bool:
    """Whether a message is a text that is not written again for each small update."""
    return isinstance(message["content"], str) and len(message["content"]) >= LONG


def in_row(stored: StoredMessage) -> dict[str, Any]:
    """The message as its row has it."""
    message = object_of(stored.body)
    if stored.body[: len(_CONTENT_IN)] == _CONTENT_IN:
        event = object_of(stored.later[0]) if stored.later else {}
        inside, patch = message.get("message"), event.get("patch")
        if isinstance(inside, dict) and isinstance(patch, dict) and "content" in patch:
            message = {**inside, "content": patch["content"]}
    elif stored.is_event:
        event, message = message, message.get("message", message)
    if isinstance(message, dict) and message.keys() >= _OF_A_MESSAGE:
        return added_message(event) if stored.is_event else message
    return _damaged(stored)


_OF_A_MESSAGE = {"message_id", "role", "content", "goal_id", "description", "status"}


def _damaged(stored: StoredMessage) -> dict[str, Any]:
    """What is shown of a message that can't be read."""
    ids = {"message_id": stored.message_id, "sequence": stored.sequence}
    nothing = {"role": "unknown", "content": None, "goal_id": None, "description": "(damaged)", "status": "complete"}
    return {**ids, **nothing, **DAMAGED}


def message_of(stored: StoredMessage, message: dict[str, Any] | None = None) -> dict[str, Any]:
    """The message as it stands now. ``message``: as its row has it, if that is known."""
    message = in_row(stored) if message is None else message
    as_of = stored.as_of
    if as_of is None:
        if not (stored.is_event and stored.later):
            return message
        as_of = stored.event_id
    texts: list[str] = []  # of appends in a row: each by itself would copy a long text
    for event in map(object_of, stored.later):
        if "event_id" not in event:
            return _damaged(stored)
        if event["event_id"] <= as_of:
            continue
        if "append" in event and not event.get("patch") and (texts or has_first_line(message)):
            texts.append(event["append"])
            continue
        if texts:
            message, texts = updated_message(message, {"append": "".join(texts)}), []
        message = updated_message(message, event)
    return updated_message(message, {"append": "".join(texts)}) if texts else message


def message_rows(
    noted: Noted, state: State, rows: dict[str, OpenRow], *, at_boundary: bool
) -> tuple[list[MessageRow], list[BodyRow]]:
    """The rows that are new and what changes in others, as of ``state``.

    ``rows``: of the messages that may change, as far as they are known; brought up to date here.
    ``at_boundary``: these events reach a boundary, at which no row is behind.
    """
    new: list[MessageRow] = []
    changed: list[BodyRow] = []
    for message_id, (sequence, goal_id, event_id) in noted.added.items():
        message, goal_id = state.messages[message_id], noted.moved.get(message_id, goal_id)
        streams, updates = is_open(message), noted.updated.get(message_id)
        as_of = (state.last_event_id if updates else event_id) if streams else None
        body = _body(message, _few(updates) if state.first_event_id == 1 else None) if updates else None
        new.append(MessageRow(sequence, message_id, goal_id, event_id, as_of, body))
        if message["status"] != "complete":
            rows[message_id] = OpenRow(len(message["content"]) if streams else None, _few(updates or ()))
    for message_id in noted.updated:
        if message_id not in noted.added:
            changed += _changed_row(noted, state, rows, message_id, at_boundary=at_boundary)
    return new, changed


def _changed_row(
    noted: Noted, state: State, rows: dict[str, OpenRow], message_id: str, *, at_boundary: bool
) -> list[BodyRow]:
    """What is written of a message that was there before and has changed."""
    message, known = state.messages[message_id], rows.get(message_id, OpenRow(None, None))
    untrimmed = known.updates is not None and state.first_event_id == 1
    updates = _few((*(known.updates or ()), *noted.updated[message_id])) if untrimmed else None
    complete = message["status"] == "complete"
    if (complete and updates) or (not is_open(message) and (at_boundary or not is_long(message))):
        rows[message_id] = OpenRow(None, updates)
        if complete:
            del rows[message_id]
        return [BodyRow(message_id, None, _body(message, updates))]
    was, length = known.length, len(message["content"])
    if was is not None and not at_boundary and was <= length < was + was // GROWTH + 1:
        rows[message_id] = OpenRow(was, updates)
        return []
    rows[message_id] = OpenRow(length, updates)
    return [BodyRow(message_id, state.last_event_id, orjson.dumps(message))]


def _few(updates: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if updates is None or len(updates) > MOST_UPDATES else updates


def _body(message: Mapping[str, Any], updates: tuple[int, ...] | None) -> bytes:
    """What the row of a message holds that is up to date, or behind by what streams.

    ``updates``: see OpenRow; None as well where the log was trimmed.
    """
    body = orjson.dumps(message)
    if not updates or message["status"] != "complete" or len(body) < WORTH_BYTES:
        return body
    return orjson.dumps({"made_of": updates, "bytes": len(body), "status": "complete"})


def open_row(stored: StoredMessage, message: Mapping[str, Any]) -> OpenRow:
    """What a message's row tells of itself. ``message``: as its row has it."""
    content = message["content"] if stored.as_of is not None else None
    since = stored.event_id if stored.as_of is None else stored.as_of
    updates = tuple(at for event in map(object_of, stored.later) if (at := event.get("event_id", 0)) > since)
    return OpenRow(len(content) if isinstance(content, str) else None, _few(updates) if stored.is_event else None)


class EventsOfRow(NamedTuple):
    """The events in which a message's row says that it stands, and the bytes of the whole message."""

    event_ids: tuple[int, ...]
    size: int
    whole: bool  # all of it stands there; else only the content


def events_of(body: bytes | None) -> EventsOfRow | None:
    """What a row's body says of events; None where the row itself has the message."""
    if body is None or (body[: len(MADE_OF)] != MADE_OF and body[: len(_CONTENT_IN)] != _CONTENT_IN):
        return None
    about = object_of(body)
    size, at = about.get("bytes"), about.get("made_of", [about.get("content_in")])
    if not isinstance(size, int) or not isinstance(at, list) or not all(isinstance(one, int) for one in at):
        return None
    return EventsOfRow(tuple(at), size, "made_of" in about)


def catch_up_rows(
    behind: Iterable[StoredMessage], state: State, written: Collection[str], rows: dict[str, OpenRow]
) -> list[BodyRow]:
    """Rows for what is behind at a boundary and was not touched by the events that lead to it (``written``)."""
    changed = []
    for stored in behind:
        if stored.message_id not in written:
            message = message_of(stored)
            as_of = state.last_event_id if is_open(message) else None
            known = rows.pop(stored.message_id, None)
            if known is not None and as_of is not None:
                rows[stored.message_id] = OpenRow(None, known.updates)
            changed.append(BodyRow(stored.message_id, as_of, orjson.dumps(message)))
    return changed


# --- questions -------------------------------------------------------------------------------------------------


def input_rows(
    noted: Noted, before: Mapping[str, Any], state: State, ahead_s: float
) -> tuple[list[InputRow], list[ClosedInput]]:
    """The rows of new questions, and what changes in those of others. ``before``: ``pending_inputs`` as it was.

    ``ahead_s``: how far the engine's clock is ahead of the steady one, by which questions run out.
    """
    new = [_input_row(event, state, noted, ahead_s) for event in noted.asked.values()]
    for request_id, event_id in noted.opened.items():
        if request_id in state.pending_inputs:
            asked = state.pending_inputs[request_id]
            event = {**asked, "event_id": event_id, "ts": asked["requested_at"]}
            new.append(_input_row(event, state, noted, ahead_s))
    closed = []
    for request_id in before if noted.may_have_ended else dict.fromkeys(noted.closed):
        if request_id in before and request_id not in state.pending_inputs:
            how = state.closed_inputs[request_id]
            closed.append(ClosedInput(request_id, how, answer_body(noted, request_id, how)))
    return new, closed


def _input_row(event: Event, state: State, noted: Noted, ahead_s: float) -> InputRow:
    request_id = event["request_id"]
    pending = state.pending_inputs.get(request_id)
    how = "open" if pending is not None else state.closed_inputs.get(request_id, "closed")
    expires_at = None if event["expires_at"] is None else parse_time(event["expires_at"]) - ahead_s
    return InputRow(
        request_id,
        event["event_id"],
        event["ts"],
        expires_at,
        how,
        None if pending is None else orjson.dumps(pending),
        answer_body(noted, request_id, how),
    )


def answer_body(noted: Noted, request_id: str, how: str) -> bytes | None:
    """What the row of an answered question holds of its answer."""
    if how != "answered" or request_id not in noted.answers:
        return None
    event = noted.answers[request_id]
    return orjson.dumps({"value": event["value"], "by": event.get("by")})
