"""A trace whose parent became known later: it stands below another one from now on, with all below it.

Rule 1: it changes where the trace is shown, counted, lost and deleted with. It changes nothing of who may read it: a
        token of one trace covers what was recorded below that trace when it came (``cover_key``).
Rule 2: the child's log says where it stands, the old parent's that it has left, and the new one's that it is there, all
        in one unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import UnknownParent, UnknownParentGoal
from ..model.events import PLACE_FIELDS
from .jobs import Append, check_above, check_depth, completed_event, place_in, put
from .storage import Needs
from .unit import Draft, Home, Plan, Unit
from .views import Appended


@dataclass(slots=True, eq=False, kw_only=True)
class Rehome(Append):
    """Append a ``trace_parent_changed``, which stands alone in its batch."""

    below: str | None = None  # who asks may put what is below this trace below it only
    exclusive: bool = True
    told: list[Plan] = field(init=False, default_factory=list)  # for the logs of the parents

    def need(self, needs: Needs) -> None:
        Append.need(self, needs)
        parent_id = self.raws[0]["parent_trace_id"]
        needs.traces.add(parent_id)
        needs.above.update({self.trace_id, parent_id})
        needs.levels.add(self.trace_id)
        message_id = self.raws[0].get("parent_message_id")
        if message_id is not None:
            needs.messages.add((parent_id, message_id))

    def run(self, unit: Unit) -> Appended:
        self.told = []
        answer = Append.run(self, unit)
        for plan in self.told:
            plan.commit()
        return answer

    def _is_repeat(self, unit: Unit, plan: Plan, raw: dict[str, Any]) -> bool:
        parent = self._parent(unit, plan.draft, raw)
        sub = parent.state.sub_traces.get(self.trace_id)
        if sub is None or unit.above(plan.draft.row) != parent.row.trace_id:
            return False
        asked = {key: raw.get(key) for key in PLACE_FIELDS} | {"parent_goal_id": self._goal_id(unit, parent, raw)}
        return all(sub.get(key) == value for key, value in asked.items())

    def _complete(self, unit: Unit, plan: Plan, raw: dict[str, Any]) -> dict[str, Any]:
        """The event with what the server adds; plans what the parents' logs are told."""
        parent, draft = self._parent(unit, plan.draft, raw), plan.draft
        goal_id = self._goal_id(unit, parent, raw)
        place = {key: raw[key] for key in PLACE_FIELDS if raw.get(key) is not None}
        left = unit.above(draft.row)
        old = None if left is None else unit.draft(left)
        if old is not None:
            self._tell(unit, old, {"event": "sub_trace_left", "parent_trace_id": parent.row.trace_id})
        started = {"parent_goal_id": goal_id, **place, "agent_type": plan.state.agent_type, "task": plan.state.task}
        if plan.state.started_at is not None:
            started["started_at"] = started["occurred_at"] = plan.state.started_at
        self._tell(unit, parent, {"event": "sub_trace_started", **started})
        if plan.state.ended:
            self._tell(unit, parent, completed_event(unit, draft, plan.state))
        root_id = parent.row.root_trace_id
        unit.rehome(draft, Home(parent.row.trace_id, goal_id, root_id, self._cover_key(unit, draft)))
        return {**raw, "parent_goal_id": goal_id, "root_trace_id": root_id}

    def _tell(self, unit: Unit, parent: Draft, raw: dict[str, Any]) -> None:
        plan = next((one for one in self.told if one.draft is parent), None)
        if plan is None:
            plan = Plan(unit, parent)
            self.told.append(plan)
        put(plan, {"sub_trace_id": self.trace_id, **raw}, unit.ts)

    def _parent(self, unit: Unit, draft: Draft, raw: dict[str, Any]) -> Draft:
        parent_id = raw["parent_trace_id"]
        parent = unit.draft(parent_id)
        if parent is None or not (self.below is None or unit.covers(self.below, parent_id)):
            raise UnknownParent(f"there is no trace {parent_id!r} to be the parent", parent_trace_id=parent_id)
        check_above(unit, self.trace_id, parent_id)
        check_depth(unit, self.trace_id, parent_id, adopts=True)
        return parent

    def _goal_id(self, unit: Unit, parent: Draft, raw: dict[str, Any]) -> str | None:
        holder = place_in(unit, parent, raw)
        if raw.get("parent_goal_id") is None:
            return None if holder is None else holder["goal_id"]
        goal_id: str = raw["parent_goal_id"]
        if goal_id not in parent.state.goals:
            said = f"trace {parent.row.trace_id!r} has no goal {goal_id!r}"
            raise UnknownParentGoal(said, parent_goal_id=goal_id)
        return goal_id

    def _cover_key(self, unit: Unit, draft: Draft) -> int | None:
        if draft.row.moved:
            return draft.row.cover_key
        above = unit.above(draft.row)
        row = None if above is None else unit.row(above)
        return None if row is None else row.trace_key
