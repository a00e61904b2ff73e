"""A recorder's knowledge of commands and questions: its rules, without a connection."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.test_handles import events, new_trace, state
from tests.support import DEADLINE_S
from tracewatch import Cancelled, Expired
from tracewatch.client.control import Control, Told
from tracewatch.client.errors import ApiError
from tracewatch.client.handles import stops
from tracewatch.client.questions import Question, QuestionBook, answer_of
from tracewatch.errors import NotRunning

pytestmark = pytest.mark.anyio


def asked(text: str = "Go?", request_id: str | None = None, **more: Any) -> Question:
    return Question.of(text, None, None, {}, request_id, None, **more)


def told(control: Control, **states: str) -> None:
    inputs = [{"request_id": key, "state": how, **({"value": 1} if how == "answered" else {})} for key, how in
              states.items()]  # fmt: skip
    control.told(Told(inputs=inputs), whole=True)


# --- which question is meant ---


def choose(book: QuestionBook, question: Question) -> bool:
    """Give the question its id; whether it must be asked."""
    name, new, changes = book.choosing(question)
    for change, values in changes:
        change(*values)
    assert question.request_id == name
    return new


@pytest.mark.parametrize(
    ("states", "expected", "new"),
    [
        ({}, "q", True),
        ({"q": "open"}, "q", False),
        ({"q": "answered"}, "q", False),
        ({"q": "expired"}, "q", False),
        ({"q": "closed"}, "q.2", True),
        ({"q": "closed", "q.2": "open"}, "q.2", False),
        ({"q": "closed", "q.2": "closed", "q.x": "open", "other": "open"}, "q.3", True),
    ],
)
def test_a_named_question_is_the_newest_of_its_name(states: dict[str, str], expected: str, new: bool) -> None:
    control = Control()
    told(control, **states)
    question = asked(request_id="q")
    assert (choose(QuestionBook(control), question), question.request_id) == (new, expected)


@pytest.mark.parametrize(
    ("states", "expected", "new"),
    [
        ({}, "", True),
        ({"": "open"}, "", False),
        ({"": "answered"}, "", False),
        ({"": "answered", ".2": "open"}, ".2", False),
        ({"": "answered", ".2": "answered"}, ".2", False),
        ({"": "open", ".2": "expired"}, ".3", True),
        ({"": "expired"}, ".2", True),
        ({"": "closed"}, ".2", True),
        ({".7": "answered"}, ".7", False),
    ],
)
def test_one_without_a_name_attaches_to_the_newest_of_its_text(
    states: dict[str, str], expected: str, new: bool
) -> None:
    control, question = Control(), asked()
    told(control, **{question.base + tail: how for tail, how in states.items()})
    asker = QuestionBook(control)
    assert (choose(asker, question), question.request_id) == (new, question.base + expected)
    again = asked()
    assert choose(asker, again)
    assert again.request_id != question.request_id


def test_other_texts_are_other_questions() -> None:
    assert asked("Go?").base == asked("Go?").base != asked("Go ?").base


@given(st.text(), st.text() | st.none(), st.floats() | st.none() | st.text(), st.lists(st.text()) | st.none())
def test_whatever_is_asked_the_log_takes_it_or_ask_says_why(
    text: str, request_id: str | None, expires_in_s: Any, options: list[str] | None
) -> None:
    t = new_trace()
    t._outbox.control.told(Told(), whole=True)
    with pytest.raises(TimeoutError):
        t.ask(text, request_id=request_id, expires_in_s=expires_in_s, options=options, timeout_s=0)
    (event,) = events(t)
    if event.get("expires_in_s") != 0 and not str(request_id).startswith("r"):
        assert list(state(t).pending_inputs) == [event["request_id"]]


# --- what is told ---


def test_told_twice_or_in_the_wrong_order_changes_nothing() -> None:
    control = Control()
    provided = Told.of_event({"event": "input_provided", "request_id": "q", "value": None, "by": "ann"})
    assert provided is not None
    for one in (Told(inputs=[{"request_id": "q", "state": "open"}]), provided, provided):
        control.told(one)
    for late in ("open", "answered"):
        control.told(Told(inputs=[{"request_id": "q", "state": late}]))
    assert control.inputs["q"] == {"request_id": "q", "state": "answered", "value": None, "by": "ann"}
    assert control.unclear == set()
    control.told(Told(inputs=[{"request_id": "large", "state": "answered"}]))
    assert control.unclear == {"large"}
    assert Told.of_event({"event": "thought"}) is None


def test_the_first_cancel_is_the_one() -> None:
    control, child = Control(), Control()
    control.link(child)
    for reason in ("first", "second"):
        control.told(Told(cancel={"reason": reason, "by": None}))
    assert control.cancel == child.cancel == {"reason": "first", "by": None}
    late = Control()
    control.link(late)
    assert late.cancel == control.cancel


async def test_waiting_in_threads_and_tasks_ends_with_the_change() -> None:
    control = Control()
    found: list[Any] = []
    look = lambda: control.inputs.get("q")  # noqa: E731
    thread = threading.Thread(target=lambda: found.append(control.wait_for(look, DEADLINE_S)))
    thread.start()
    tasks = [asyncio.create_task(control.await_for(look, DEADLINE_S)) for _ in range(3)]
    await asyncio.sleep(0)
    control.told(Told(inputs=[{"request_id": "q", "state": "open"}]))
    assert all([await task for task in tasks])
    await asyncio.to_thread(thread.join, DEADLINE_S)
    assert found == [control.inputs["q"]]
    assert control._listeners == {}
    assert await control.await_for(lambda: control.inputs.get("never"), 0) is None


def test_a_fork_keeps_what_is_known_and_asks_anew() -> None:
    t = new_trace()
    t._outbox.control.told(Told(cancel={"reason": "x", "by": None}), whole=True)
    control = t._outbox.control
    with control._changed:  # as another thread may, in the moment of the fork
        t._outbox.start_over()
    assert t._outbox.control is control and not control.primed
    assert t.cancelled.reason == "x"


# --- what the agent gets ---


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ({"state": "expired"}, Expired),
        ({"state": "closed"}, NotRunning),
        ({"state": "refused", "code": "invalid_event", "message": "m"}, ApiError),
    ],
)
def test_an_end_without_an_answer_is_an_error(outcome: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        answer_of(asked(), outcome)


def test_cancelled_is_a_stop_and_no_exception() -> None:
    error = Cancelled("why", "ann")
    assert not isinstance(error, Exception)
    assert str(error) == "cancelled by ann: why" and str(Cancelled()) == "cancelled"
    assert stops(error) and stops(BaseExceptionGroup("g", [error, BaseExceptionGroup("h", [Cancelled()])]))
    assert not stops(BaseExceptionGroup("g", [error, ValueError()]))


def test_the_schema_of_a_dictionary_and_of_a_model_go_into_the_question() -> None:
    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object"}

    for schema in (Model, {"type": "object"}):
        event = Question.of("?", ("a",), schema, {"goal_id": "g"}, None, 5).event
        assert orjson.loads(orjson.dumps(event)) == {
            "event": "input_requested",
            "question": "?",
            "options": ["a"],
            "schema": {"type": "object"},
            "goal_id": "g",
            "expires_in_s": 5.0,
        }


def test_a_callback_is_called_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    control, called = Control(), list[int]()
    control.on_cancel(lambda: called.append(1))
    control.on_cancel(lambda: called.append(1 // 0))
    control.on_cancel(lambda: called.append(3))
    control.told(Told(cancel={"reason": "enough", "by": None}))
    assert called == [1, 3] and control.seen
