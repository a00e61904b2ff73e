"""Questions of an agent to users: their ids, their outcomes, and the wait for their answers.

The wait for an answer is the only call of a recorder that blocks, because the agent wants it to.

Rule 1: a question has an id that a restarted agent finds again: the given one, else one made from its text. So asking
        the same again finds the open question, or the answer that came meanwhile.
Rule 2: without a given id, a process finds each question once: the same text again is another question. With a given
        id it is always the same question.
Rule 3: the log decides whether an answer came in time; the clock of this process does not count.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice
from types import EllipsisType
from typing import Any

from ..errors import Expired, InvalidValue, NotRunning
from ..model.fit import amount
from .book import Change
from .cancel import cancelled_error
from .control import CLOSED, Control
from .encode import encode, guarded, name_of, number_of, settled, words
from .errors import ApiError
from .handles import Goal, belongs_to
from .journal import Journal, Step

_MOST_OPTIONS = 10_000
LONGEST_EXPIRY_S = 10 * 366 * 86_400.0


@dataclass(slots=True)
class Question:
    """One call of ``ask``: its event, and the id by which it is found again."""

    event: dict[str, Any]
    schema: Any  # a model class, JSON Schema or None
    base: str  # its request_id without the number at its end
    named: bool  # whether the agent gave the id
    request_id: str | None = None  # None until it is chosen

    @classmethod
    def of(
        cls,
        question: Any,
        options: Any,
        schema: Any,
        belongs: dict[str, str | None],
        request_id: Any,
        expires_in_s: Any,
    ) -> Question:
        """The question from the arguments of ``ask``."""
        text = words(question, 20_000)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        event: dict[str, Any] = {"event": "input_requested", "question": text, **belongs}
        if options is not None:
            event["options"] = guarded(lambda: list(islice(options, _MOST_OPTIONS)), None) or [words(options)]
        if schema is not None:
            event["schema"] = guarded(lambda: _json_schema(schema), schema)
        event = settled(event)  # by now, as no code of the agent's may run while a lock is held
        seconds = number_of(amount, math.inf, expires_in_s)
        if seconds is not None:
            event["expires_in_s"] = min(seconds, LONGEST_EXPIRY_S)
        named = request_id is not None
        return cls(event, schema, name_of(request_id)[:240] if named else f"ask-{digest}", named)


def _json_schema(schema: Any) -> Any:
    return schema.model_json_schema() if hasattr(schema, "model_json_schema") else schema


class QuestionBook:
    """The questions of one recorder and their outcomes."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._taken: set[str] = set()  # ids of questions without a given id that this process has waited for

    def choosing(self, question: Question) -> tuple[str, bool, list[Change]]:
        """The question's id, whether it must be asked as none like it is open or answered, and what changes."""
        inputs = self._control.inputs
        number = max((_number(one, question.base) for one in list(inputs)), default=0) or 1
        name, follower = _numbered(question.base, number), _numbered(question.base, number + 1)
        state = inputs[name]["state"] if name in inputs else None
        if question.named:
            again = state in ("closed", "refused")  # closed: the trace had ended, and goes on now
        else:
            again = state is not None and (name in self._taken or state not in ("open", "asked", "answered"))
        if again:
            state, name = None, follower
        changes: list[Change] = [(setattr, (question, "request_id", name))]
        if not question.named:
            changes.append((self._taken.add, (name,)))
        if state is None:
            changes.append(_asked(inputs, name))
        return name, state is None, changes

    def outcome(self, question: Question) -> dict[str, Any] | None:
        """The final state of a question; None while it is open. Raises Cancelled."""
        if self._control.cancel is not None:
            raise cancelled_error(self._control)
        found = self._control.inputs.get(question.request_id or "", {})
        if found.get("state") == "answered":
            return found if "value" in found else None
        return found if found.get("state") in (*CLOSED, "refused", "lost") else None

    def asking_again(self, question: Question) -> list[Change] | None:
        """The changes if the caller must ask a question again, because the log has lost it; else None."""
        request_id = question.request_id or ""
        if self._control.inputs.get(request_id, {}).get("state") != "lost":
            return None  # another caller that waits for it was quicker
        return [_asked(self._control.inputs, request_id)]


def _asked(inputs: dict[str, dict[str, Any]], request_id: str) -> Change:
    return inputs.update, ({request_id: {"request_id": request_id, "state": "asked"}},)


def _numbered(base: str, number: int) -> str:
    return base if number == 1 else f"{base}.{number}"


def _number(request_id: str, base: str) -> int:
    """The number of a question among those of this base; 0 if it is none of them."""
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


Outcome = Callable[[], Any]  # returns None until the outcome is there


class Questions:
    """The questions of a trace: it asks them and waits for the answers."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._control = journal.control
        self._book = QuestionBook(journal.control)

    def ask(self, question: Question, timeout_s: float | None) -> Any:
        """Ask, and wait for the answer for at most ``timeout_s``. See Trace.ask."""
        steps, left = self._steps(question, timeout_s), _countdown(timeout_s)
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(self._control.wait_for(wanted, left()))
        except StopIteration as done:
            return done.value
        finally:
            steps.close()

    async def aask(self, question: Question, timeout_s: float | None) -> Any:
        """As ``ask``, in a task."""
        steps, left = self._steps(question, timeout_s), _countdown(timeout_s)
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(await self._control.await_for(wanted, left()))
        except StopIteration as done:
            return done.value
        finally:
            steps.close()

    def question(
        self,
        question: Any,
        options: Any,
        schema: Any,
        goal: Goal | str | EllipsisType | None,
        request_id: Any,
        expires_in_s: Any,
    ) -> Question:
        """The question for the arguments of ``ask``. Raises Cancelled, NotRunning."""
        if self._control.cancel is not None:
            raise cancelled_error(self._control)
        trace_id = self._journal.trace_id
        if self._journal.over:
            raise NotRunning(f"trace {trace_id!r} has ended: nobody would be asked", trace_id=trace_id)
        return Question.of(question, options, schema, belongs_to(goal, self._journal), request_id, expires_in_s)

    def _steps(self, question: Question, timeout_s: float | None) -> Generator[Outcome, Any, Any]:
        """The steps of a call: yields each outcome to wait for, gets it sent (None: time is up), returns the answer."""
        if (yield self._may_ask) is None:
            raise TimeoutError(f"{self._journal.trace_id}: no server to ask")
        self._ask(question)
        try:
            outcome = yield lambda: self._book.outcome(question)
            while outcome is not None and outcome["state"] == "lost":
                self._ask_again(question)
                outcome = yield lambda: self._book.outcome(question)
        finally:
            self._asked(question)
        if outcome is None:
            raise TimeoutError(f"no answer after {timeout_s:g} s: {question.event['question'][:200]}")
        return answer_of(question, outcome)

    def _may_ask(self) -> bool | None:
        """Whether the questions asked before are known. Raises Cancelled."""
        if self._control.cancel is not None:
            raise cancelled_error(self._control)
        return True if self._control.primed else None

    def _ask(self, question: Question) -> None:
        with self._journal.lock:
            self._journal.put(lambda: self._asking(question))
            request_id = question.request_id or ""
            self._control.waiting[request_id] = self._control.waiting.get(request_id, 0) + 1
        self._journal.begin()  # an answer that is known without its value has to be asked for

    def _asking(self, question: Question) -> Step:
        request_id, new, changes = self._book.choosing(question)
        return Step(encode({**question.event, "request_id": request_id}, own=True) if new else [], changes)

    def _ask_again(self, question: Question) -> None:
        self._journal.record(lambda: self._asking_again(question))

    def _asking_again(self, question: Question) -> Step | None:
        changes = self._book.asking_again(question)
        if changes is None:
            return None
        return Step(encode({**question.event, "request_id": question.request_id}, own=True), changes)

    def _asked(self, question: Question) -> None:
        with self._journal.lock:
            waiting, request_id = self._control.waiting, question.request_id or ""
            if waiting.get(request_id, 0) > 1:
                waiting[request_id] -= 1
            else:
                waiting.pop(request_id, None)


def _countdown(timeout_s: float | None) -> Callable[[], float | None]:
    """A function that returns the seconds left of ``timeout_s``."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    return lambda: None if end is None else end - time.monotonic()
