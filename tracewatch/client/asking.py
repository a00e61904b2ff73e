"""Asking people: which question is meant, what became of it, what the agent gets. No I/O.

Rule 1: a question has an id that a restarted agent finds again: the one given, else one made from its text. So asking
        the same again attaches to the question that is open, or gives the answer that came meanwhile.
Rule 2: without an id given, each question is attached to once in a process: asking its text again is another question.
        With an id given it is always the same.
Rule 3: the log decides whether an answer came in time; nobody looks at the clock here.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from ..errors import Expired, InvalidValue, NotRunning
from ..model.fit import amount
from .cancel import cancelled_error
from .control import CLOSED, Control
from .encode import name_of, words
from .errors import ApiError

LONGEST_EXPIRY_S = 10 * 366 * 86_400.0


@dataclass(slots=True)
class Question:
    """One call of ``ask``: its event, and how it is found again."""

    event: dict[str, Any]
    schema: Any  # a model class, JSON Schema or None
    base: str  # its request_id, but for a number behind it
    named: bool  # the agent gave the id
    request_id: str | None = None  # once it is chosen

    @classmethod
    def of(
        cls,
        question: Any,
        options: Any,
        schema: Any,
        goal_id: str | None,
        request_id: Any,
        expires_in_s: Any,
    ) -> Question:
        """From what ``ask`` was given."""
        text = words(question, 20_000)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        event: dict[str, Any] = {"event": "input_requested", "question": text}
        if options is not None:
            event["options"] = list(options)
        if schema is not None:
            event["schema"] = schema.model_json_schema() if hasattr(schema, "model_json_schema") else schema
        if goal_id is not None:
            event["goal_id"] = goal_id
        seconds = amount(expires_in_s, math.inf)
        if seconds is not None:
            event["expires_in_s"] = min(seconds, LONGEST_EXPIRY_S)
        named = request_id is not None
        return cls(event, schema, name_of(request_id)[:240] if named else f"ask-{digest}", named)


class Asker:
    """The questions of one recorder."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._taken: set[str] = set()  # questions without a name that this process waits or has waited for

    def choose(self, question: Question) -> bool:
        """Choose the question's id; whether it has to be asked, because no such question is open or answered."""
        inputs = self._control.inputs
        number = max((_number(one, question.base) for one in list(inputs)), default=0) or 1
        name, follower = _numbered(question.base, number), _numbered(question.base, number + 1)
        state = inputs[name]["state"] if name in inputs else None
        if question.named:
            again = state in ("closed", "refused")  # closed by an end of the trace that was not the last one
        else:
            again = state is not None and (name in self._taken or state not in ("open", "asked", "answered"))
        if again:
            state, name = None, follower
        if not question.named:
            self._taken.add(name)
        question.request_id = name
        if state is None:
            inputs[name] = {"request_id": name, "state": "asked"}
        return state is None

    def outcome(self, question: Question) -> dict[str, Any] | None:
        """What became of a question: its state, None while it is open. Raises Cancelled."""
        if self._control.cancel is not None:
            raise cancelled_error(self._control)
        found = self._control.inputs.get(question.request_id or "", {})
        if found.get("state") == "answered":
            return found if "value" in found else None
        return found if found.get("state") in (*CLOSED, "refused", "lost") else None

    def ask_again(self, question: Question) -> bool:
        """Whether a question that the log has lost has to be asked again by whoever looks now."""
        request_id = question.request_id or ""
        if self._control.inputs.get(request_id, {}).get("state") != "lost":
            return False  # another one who waits for it was quicker
        self._control.inputs[request_id] = {"request_id": request_id, "state": "asked"}
        return True


def _numbered(base: str, number: int) -> str:
    return base if number == 1 else f"{base}.{number}"


def _number(request_id: str, base: str) -> int:
    """Which of the questions of this base it is; 0: none."""
    if request_id == base:
        return 1
    head, _, tail = request_id.rpartition(".")
    return int(tail) if head == base and tail.isascii() and tail.isdigit() else 0


def answer_of(question: Question, outcome: dict[str, Any]) -> Any:
    """The answer as the agent wants it. Raises Expired, NotRunning, InvalidValue, ApiError."""
    request_id, state = question.request_id, outcome["state"]
    facts: dict[str, Any] = {"request_id": request_id}
    if state == "expired":
        raise Expired(f"nobody has answered in time: {question.event['question'][:200]}", **facts)
    if state == "closed":
        raise NotRunning(f"question {request_id!r} was closed by the end of its trace", **facts)
    if state == "refused":
        raise ApiError(422, str(outcome["code"]), f"the question was refused: {outcome['message']}", facts=facts)
    validate = getattr(question.schema, "model_validate", None)
    if validate is None:
        return outcome["value"]
    try:
        return validate(outcome["value"])
    except ValueError as error:  # pydantic's is one
        raise InvalidValue(
            f"the answer to {request_id!r} is no {question.schema.__name__}: {error}", **facts
        ) from error
