"""Plans: a to-do list that an agent rewrites at each change becomes goals, which only move forward.

Rule 1: a to-do is recognized by its id, else by its text. Its goal goes pending → in_progress → completed; a to-do that
        skips a status gets the one between, too.
Rule 2: a to-do that leaves the list before it is done is abandoned. One that was done and comes back is a new goal.
Rule 3: goals that end are written before goals that begin, so that the goal begun last is the current one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .reading import without
from .traces import TraceWriter

_STATUSES = {
    "pending": "pending",
    "in_progress": "in_progress",
    "completed": "completed",
    "cancelled": "abandoned",
    "canceled": "abandoned",
    "abandoned": "abandoned",
}
_OPEN = ("pending", "in_progress")


@dataclass
class _Item:
    goal_id: str
    text: str
    status: str  # the goal's status
    listed: str  # the status in the list, which may go back where a goal can't


class ImportedPlan:
    """The to-do list of one agent."""

    def __init__(self, trace: TraceWriter) -> None:
        self._trace = trace
        self._items: dict[str, _Item] = {}
        self.current: str | None = None  # the goal in progress that began last

    def write(self, todos: list[Any], at: str | None) -> list[tuple[str, str]]:
        """Take ``todos`` as the new list. Returns (path, message) for each unreadable entry."""
        faults: list[tuple[str, str]] = []
        listed: dict[str, dict[str, Any]] = {}
        for index, todo in enumerate(todos):
            if fault := _fault(todo):
                faults.append((f"[{index}]{fault[0]}", fault[1]))
                continue
            key = _key(todo)
            while key in listed:
                key += "'"
            listed[key] = todo
        # An unreadable entry may be any of the old ones, so beside one nothing counts as removed.
        gone = [] if faults else [key for key in self._items if key not in listed]
        for key in gone:
            item = self._items.pop(key)
            if item.status in _OPEN:
                self._trace.goal_update(item.goal_id, status="abandoned", summary="taken from the list", at=at)
        for key, todo in listed.items():
            if key in self._items:
                self._end(self._items[key], todo, at)
        before: str | None = None
        for key, todo in listed.items():
            before = self._begin(key, todo, before, at)
        running = [item.goal_id for item in self._items.values() if item.status == "in_progress"]
        if self.current not in running:
            self.current = running[-1] if running else None
        return faults

    def _end(self, item: _Item, todo: dict[str, Any], at: str | None) -> None:
        status = _STATUSES[todo["status"]]
        if status == "completed" and item.status == "pending":
            self._move(item, "in_progress", at)
        if status not in _OPEN and item.status in _OPEN:
            self._move(item, status, at)
            item.listed = status

    def _begin(self, key: str, todo: dict[str, Any], before: str | None, at: str | None) -> str:
        status, text = _STATUSES[todo["status"]], todo["content"]
        item = self._items.get(key)
        if item is None or (item.status not in _OPEN and status in _OPEN):
            return self._add(key, todo, before, at)
        if text != item.text:
            item.text = text
            self._trace.goal_update(item.goal_id, description=text, at=at)
        if status == "in_progress" and item.status == "pending":
            self._move(item, "in_progress", at)
        elif status != item.listed and status != item.status:
            self._trace.event("plan.status", {"goal_id": item.goal_id, "status": status}, at=at)
        item.listed = status
        return item.goal_id

    def _add(self, key: str, todo: dict[str, Any], before: str | None, at: str | None) -> str:
        status, text = _STATUSES[todo["status"]], todo["content"]
        old = self._items.get(key)
        reason = f"{old.goal_id} again" if old is not None and old.text == text else None
        extra = without(todo, "content", "status")
        after_id = before if old is None else old.goal_id
        goal_id = self._trace.goal(text, status=status, reason=reason, after_id=after_id, todo=extra, at=at)
        self._items[key] = _Item(goal_id, text, status, status)
        if status == "in_progress":
            self.current = goal_id
        return goal_id

    def _move(self, item: _Item, status: str, at: str | None) -> None:
        item.status = status
        self._trace.goal_update(item.goal_id, status=status, at=at)
        if status == "in_progress":
            self.current = item.goal_id


def _key(todo: dict[str, Any]) -> str:
    given = todo.get("id")
    return f"id {given}" if isinstance(given, (str, int)) and given != "" else f"text {todo['content']}"


def _fault(todo: Any) -> tuple[str, str] | None:
    if not isinstance(todo, dict):
        return "", "a to-do is a JSON object"
    if not isinstance(todo.get("content"), str) or not todo["content"].strip():
        return ".content", "must be text"
    if not isinstance(todo.get("status"), str) or todo["status"] not in _STATUSES:
        return ".status", "must be pending, in_progress or completed"
    return None
