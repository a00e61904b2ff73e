"""Plans of agents as goals: to-do lists that are written anew each time, and tasks that change one by one.

Rule 1: a to-do or task is known by its id, else by its text, and so is its goal: the same plan told again is nothing.
        Its goal goes pending → in_progress → completed; one that skips a status gets the one between, too.
Rule 2: a to-do that leaves the list before it is done is abandoned. One that was done and comes back is a new goal.
Rule 3: goals that end are written before goals that begin, so that the goal begun last is the current one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .reading import without

_STATUSES = {
    "pending": "pending",
    "todo": "pending",
    "in_progress": "in_progress",
    "inprogress": "in_progress",
    "completed": "completed",
    "done": "completed",
    "cancelled": "abandoned",
    "canceled": "abandoned",
    "abandoned": "abandoned",
    "blocked": "pending",
    "deleted": "abandoned",
}
_OPEN = ("pending", "in_progress")

WriteGoal = Callable[[str, dict[str, Any], "str | None"], None]  # goal_id, fields, time
WriteEvent = Callable[[str, str, dict[str, Any], "str | None"], None]  # key, name of the event, payload, time


@dataclass
class _Item:
    goal_id: str
    text: str
    status: str  # the goal's status
    listed: str  # the status in the list, which may go back where a goal can't
    again: int = 1


class ImportedPlan:
    """The plan of one agent. ``goal`` and ``event`` write into its trace."""

    def __init__(self, goal: WriteGoal, event: WriteEvent) -> None:
        self._write_goal = goal
        self._write_event = event
        self._items: dict[str, _Item] = {}
        self.current: str | None = None  # the goal in progress that began last

    def write(self, todos: list[Any], at: str | None, told_by: str = "") -> list[tuple[str, str]]:
        """Take ``todos`` as the new list. Returns (path, message) for each unreadable entry.

        ``told_by``: the id of the call, for what a goal can't say.
        """
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
        gone = [] if faults else [key for key in self._items if key not in listed and not key.startswith("task ")]
        for key in gone:
            item = self._items.pop(key)
            if item.status in _OPEN:
                self._goal(item, at, status="abandoned", summary="taken from the list")
        for key, todo in listed.items():
            if key in self._items:
                self._end(self._items[key], todo, at)
        before: str | None = None
        for key, todo in listed.items():
            before = self._begin(key, todo, before, at, told_by)
        self._find_current()
        return faults

    # --- tasks that are changed one by one ---

    def add(self, task_id: str, text: str, at: str | None, **extra: Any) -> None:
        """Add the task ``task_id``, pending."""
        key = f"task {task_id}"
        if key not in self._items:
            item = self._items[key] = _Item(f"task-{task_id}", text, "pending", "pending")
            self._goal(item, at, description=text, type="normal", status="pending", **extra)
        elif not self._items[key].text:
            self._items[key].text = text
            self._goal(self._items[key], at, description=text)

    def recall(self, task_id: str) -> None:
        """Take that there is such a task, of which nothing more is known here: the log has its goal."""
        self._items.setdefault(f"task {task_id}", _Item(f"task-{task_id}", "", "pending", "pending"))

    def remember(self, goals: list[dict[str, Any]]) -> None:
        """Take the goals that the log has, ``{id, description, status}``, as the plan so far."""
        for goal in goals:
            goal_id, text = goal["id"], goal["description"]
            key = f"task {goal_id.removeprefix('task-')}" if goal_id.startswith("task-") else f"text {text}"
            if key not in self._items and (key.startswith("task ") or _goal_id(key) == goal_id):
                self._items[key] = _Item(goal_id, text, goal["status"], goal["status"])
        self._find_current()

    def knows(self, task_id: str) -> bool:
        """Whether there is such a task."""
        return f"task {task_id}" in self._items

    def change(self, task_id: str, at: str | None, *, status: str | None, text: str | None, told_by: str) -> None:
        """Change a task. A status that the goal can't take is an event."""
        item = self._items[f"task {task_id}"]
        if text and text != item.text:
            item.text = text
            self._goal(item, at, description=text, key=f"{told_by}.text")
        ours = _STATUSES.get(status or "")
        if ours is None or ours == item.listed:
            return
        if item.status in _OPEN and ours != "pending":
            self._move(item, ours, at)
        else:
            self._write_event(f"{told_by}.plan", "plan.status", {"goal_id": item.goal_id, "status": ours}, at)
        item.listed = ours
        self._find_current()

    # --- one entry ---

    def _find_current(self) -> None:
        running = [item.goal_id for item in self._items.values() if item.status == "in_progress"]
        if self.current not in running:
            self.current = running[-1] if running else None

    def _end(self, item: _Item, todo: dict[str, Any], at: str | None) -> None:
        status = _STATUSES[todo["status"]]
        if status not in _OPEN and item.status in _OPEN:
            self._move(item, status, at)
            item.listed = status

    def _begin(self, key: str, todo: dict[str, Any], before: str | None, at: str | None, told_by: str) -> str:
        status, text = _STATUSES[todo["status"]], todo["content"]
        item = self._items.get(key)
        if item is None or (item.status not in _OPEN and status in _OPEN):
            return self._add(key, todo, before, at)
        if text != item.text:
            item.text = text
            self._goal(item, at, description=text, key=f"{told_by}.{item.goal_id}.text")
        if status == "in_progress" and item.status == "pending":
            self._move(item, "in_progress", at)
        elif status != item.listed and status != item.status:
            event = {"goal_id": item.goal_id, "status": status}
            self._write_event(f"{told_by}.{item.goal_id}"[:250], "plan.status", event, at)
        item.listed = status
        return item.goal_id

    def _add(self, key: str, todo: dict[str, Any], before: str | None, at: str | None) -> str:
        status, text = _STATUSES[todo["status"]], todo["content"]
        old = self._items.get(key)
        reason = f"{old.goal_id} again" if old is not None and old.text == text else None
        again = 1 if old is None else old.again + 1
        goal_id = _goal_id(key) + (f".{again}" if again > 1 else "")
        item = self._items[key] = _Item(goal_id, text, status, status, again)
        extra = without(todo, "content", "status", "step", "title")
        after_id = before if old is None else old.goal_id
        fields = {"description": text, "type": "normal", "status": status, "reason": reason, "after_id": after_id}
        self._goal(item, at, **fields, todo=extra)
        if status == "in_progress":
            self.current = goal_id
        return goal_id

    def _move(self, item: _Item, status: str, at: str | None) -> None:
        if status == "completed" and item.status == "pending":
            self._goal(item, at, status="in_progress")
        item.status = status
        self._goal(item, at, status=status)
        if status == "in_progress":
            self.current = item.goal_id

    def _goal(self, item: _Item, at: str | None, **fields: Any) -> None:
        self._write_goal(item.goal_id, fields, at)


def _key(todo: dict[str, Any]) -> str:
    given = todo.get("id")
    return f"id {given}" if isinstance(given, (str, int)) and given != "" else f"text {todo['content']}"


def _goal_id(key: str) -> str:
    return f"todo-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:10]}"


def _fault(todo: Any) -> tuple[str, str] | None:
    if not isinstance(todo, dict):
        return "", "a to-do is a JSON object"
    if not isinstance(todo.get("content"), str) or not todo["content"].strip():
        return ".content", "must be text"
    if not isinstance(todo.get("status"), str) or todo["status"] not in _STATUSES:
        return ".status", "must be pending, in_progress or completed"
    return None
