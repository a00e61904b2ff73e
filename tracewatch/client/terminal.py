"""Questions that the agent asks at its own terminal, told to those who watch: they see it, and who has answered."""

from __future__ import annotations

from types import EllipsisType
from typing import Any

from ..model.canonical import TERMINAL
from .encode import settled
from .handles import Goal, belongs_to
from .journal import Journal
from .questions import Question


class TerminalQuestion:
    """A question that is open at the agent's own terminal. ``request_id`` is its id.

    asked = t.asked_at_terminal("Delete build/?", options=["yes", "no"])
    asked.answered(input("Delete build/? "))
    """

    def __init__(
        self,
        journal: Journal,
        question: str,
        options: list[Any] | None,
        goal: Goal | str | EllipsisType | None,
        request_id: str | None,
    ) -> None:
        self._journal = journal
        asked = Question.of(question, options, None, belongs_to(goal, journal), request_id, None)
        self.request_id = asked.base if asked.named else journal.new_id("q")
        event = {**asked.event, "request_id": self.request_id, "answerable": TERMINAL}
        journal.emit(event | ({"if_absent": True} if asked.named else {}))

    def answered(self, value: Any = None) -> None:
        """Tell that it was answered there. ``value``: any JSON; None where it is not known.

        asked.answered("yes")
        """
        self._journal.emit(
            {"event": "input_provided", "request_id": self.request_id, "value": settled(value), "by": TERMINAL}
        )
