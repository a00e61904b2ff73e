"""What a trace gives out for what is neither goal nor message: a node of a graph, a turn, a retry, a guardrail.

Rule: no method raises because of what it is given; a second end of something is ignored.
"""

from __future__ import annotations

from types import EllipsisType
from typing import Any, Self

from ..model.fit import shortened_text
from .blocks import RecordedBlock, current_step, open_steps
from .encode import clean, dumps, encode, name_of, settled, words
from .handles import Goal, belongs_to, error_of, stops
from .journal import Journal, Step, setting

_PREVIEW_CHARS = 1900  # of 2,000 that the log takes; a marker says how much is missing


class RunStep(RecordedBlock):
    """A step of a trace, as ``t.step`` returns it. ``id`` is its id.

    What is recorded within its block, in this thread or task, stands in it.

        with t.step("plan", kind="node", input=state) as step:
            step.output(plan(state))
    """

    def __init__(
        self, journal: Journal, name: str, kind: str, goal: Goal | str | EllipsisType | None, given: Any
    ) -> None:
        self.id = journal.new_id("n")
        self.journal = journal
        self._step: dict[str, Any] = {"id": self.id, "name": name_of(name), "kind": name_of(kind)}
        self._step |= {"step_id": above} if (above := current_step(journal)) is not None else {}
        self._step |= belongs_to(goal, journal)
        if given is not None:
            self._step["input"] = preview_of(given)
        self._patch: dict[str, Any] = {}  # it goes out with the next event of the step
        self._added = self._ended = False

    def output(self, value: Any) -> None:
        """Set what came out, any JSON: shown is the beginning of it, up to 2,000 characters."""
        self.set(output=preview_of(value))

    def set(self, **values: Any) -> None:
        """Set keys of the step: ``name``, ``kind``, or your own. They are recorded with its end, or now if it is over.

        step.set(attempt=2)
        """
        tidy = {key: settled(value) for key, value in values.items() if key not in ("id", "status")}
        tidy |= {key: name_of(tidy[key]) for key in ("name", "kind") if key in tidy}
        with self.journal.lock:
            self._patch = {**self._patch, **tidy}
        if self._ended:
            self.journal.record(lambda: self._updating({}))

    def start(self) -> Self:
        """Begin the step, as its ``with`` block does, where a callback begins it and another one ends it.

        steps[run_id] = t.step("plan", kind="node").start()
        """
        self.journal.record(self._adding)
        return self

    def end(self, output: Any = None, *, error: Any = None, status: str | None = None) -> None:
        """End the step. ``output``: any JSON. ``error``: an exception or any JSON, if it failed.

        ``status``: completed, failed or stopped, where neither says it.

            steps.pop(run_id).end(output="3 matches")
        """
        if output is not None and not self._ended:
            self.output(output)
        ended = words(status, 64) if status is not None else "failed" if error is not None else "completed"
        patch: dict[str, Any] = {"status": ended if ended in ("completed", "failed", "stopped") else "completed"}
        if error is not None:
            patch["error"] = error_of(error)
        self.start()
        self.journal.record(lambda: None if self._ended else self._updating(patch, _ended=True))

    def _adding(self) -> Step | None:
        if self._added:
            return None
        event = {"event": "step_added", "step": {**self._step, "status": "running"}}
        return Step(encode(event, own=True), (setting(self, _added=True),))

    def _updating(self, patch: dict[str, Any], **more: Any) -> Step | None:
        patch = {**self._patch, **patch}
        if not patch:
            return None
        event = {"event": "step_updated", "step_id": self.id, "patch": patch}
        return Step(encode(event, own=True), (setting(self, _patch={}, **more),))

    def _enter(self) -> None:
        self.start()
        open_steps.enter(self)

    def _leave(self, error: BaseException | None) -> None:
        open_steps.leave(self)
        if error is None:
            self.end()
        else:
            said = {key: value for key, value in error_of(error).items() if key != "traceback"}
            self.end(error=said, status="stopped" if stops(error) else "failed")

    def _leave_in_child(self, error: BaseException | None) -> None:
        open_steps.leave(self)


def preview_of(value: Any) -> str:
    """The beginning of any value, as text that a step holds."""
    text = value if type(value) is str else dumps(value).decode("utf-8", "replace")
    return clean(shortened_text(text, _PREVIEW_CHARS))


class Turn(RunStep):
    """A turn of a session, as ``t.turn`` returns it: a step of kind turn, and behind it the trace is idle.

    with t.turn("What is the weather?"):
        ...
    """

    def _enter(self) -> None:
        if not self._added:
            self.journal.emit({"event": "trace_status_changed", "status": "running", "reason": "a turn begins"})
        super()._enter()

    def _leave(self, error: BaseException | None) -> None:
        ended = self._ended
        super()._leave(error)
        if not (ended or self.journal.over):
            self.journal.emit({"event": "trace_status_changed", "status": "idle", "reason": "the turn is over"})
