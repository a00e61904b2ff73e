"""The tree of a trace's goals with their stats, each sub-trace below the goal that started it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from rich.tree import Tree

from ..model.error import error_line
from . import text
from .lines import GOAL_GLYPHS, GOAL_STYLES, STATUS_GLYPHS, STATUS_STYLES, readable

MAX_DEPTH = 40  # of sub-traces within sub-traces
CURRENT = "current"  # a key in the meta data of what is drawn: the goal that is worked on, or an open question
_HERE = Style(meta={CURRENT: True})
_NAMED = 5  # steps that are running, by their names
_ERROR_CELLS = 60  # of a failed run's error beside its numbers


@dataclass(frozen=True)
class TreeView:
    """A trace after one of its events. ``below``: the views of the sub-traces that are shown too, by trace_id."""

    trace: Mapping[str, Any]
    goals: Iterable[Mapping[str, Any]]  # depth first
    sub_traces: Iterable[Mapping[str, Any]]
    pending_inputs: Iterable[Mapping[str, Any]] = ()
    below: Mapping[str, TreeView] = field(default_factory=dict)
    steps: Iterable[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, answer: Mapping[str, Any], below: Mapping[str, TreeView] | None = None) -> TreeView:
        """The view in an answer of ``GET /api/traces/{id}``."""
        goals = answer["goal_tree"]["goals"]
        inputs, steps = answer["pending_inputs"], answer.get("steps", ())
        return cls(answer["trace"], goals, answer["sub_traces"], inputs, below or {}, steps)


def goal_tree(view: TreeView, *, width: int | None = None, heading: Text | None = None, depth: int = 0) -> Tree:
    """The tree of a trace, its task at the root. ``width``: the terminal's cells; texts are cut so that numbers fit."""
    root = Tree(heading or _heading(view.trace, width), guide_style="dim")
    current = view.trace.get("current_goal_id")
    branches: dict[str | None, tuple[Tree, int | None]] = {None: (root, _narrower(width))}
    for goal in view.goals:
        above, room = branches.get(goal["parent_id"], branches[None])
        branches[goal["id"]] = above.add(_goal(goal, room, current=goal["id"] == current)), _narrower(room)
    for goal_id, steps in _by_goal(view.steps).items():
        above, room = branches.get(goal_id, branches[None])
        above.add(_steps(steps, room))
    for sub in view.sub_traces:
        above, room = branches.get(sub.get("parent_goal_id"), branches[None])
        below = view.below.get(sub["trace_id"])
        if below is not None and depth < MAX_DEPTH:
            above.children.append(goal_tree(below, width=room, heading=_sub_trace(sub, room), depth=depth + 1))
        else:
            above.add(_sub_trace(sub, room))
    for asked in view.pending_inputs:
        above, room = branches.get(asked.get("goal_id"), branches[None])
        label = _line("?", "magenta", readable(asked["question"]), "open question", room)
        label.stylize(_HERE)
        above.add(label)
    return root


def _narrower(room: int | None) -> int | None:
    return None if room is None else room - 4  # rich indents each level by four cells


def _heading(trace: Mapping[str, Any], room: int | None) -> Text:
    totals = trace.get("tree_totals") or trace
    note = _stats(totals, totals["total_messages"], _outcome(trace))
    status = trace["status"]
    glyph, style = STATUS_GLYPHS.get(status, "?"), STATUS_STYLES.get(status, "dim")
    return _line(glyph, style, trace["task"], note, room, bold=True)


def _goal(goal: Mapping[str, Any], room: int | None, *, current: bool) -> Text:
    stats = goal["cumulative_stats"]
    note = _stats(stats, stats["message_count"], stats["preview"])
    status = goal["status"]
    label = _line(GOAL_GLYPHS[status], GOAL_STYLES[status], goal["description"], note, room, bold=current)
    if status == "abandoned":
        label.stylize("dim")
    if current and status == "in_progress":
        label.stylize(_HERE)
    return label


def _by_goal(steps: Iterable[Mapping[str, Any]]) -> dict[str | None, list[Mapping[str, Any]]]:
    found: dict[str | None, list[Mapping[str, Any]]] = {}
    for step in steps:
        found.setdefault(step["goal_id"], []).append(step)
    return found


def _steps(steps: list[Mapping[str, Any]], room: int | None) -> Text:
    """The steps of one goal, folded: how many, and what is running."""
    running = [str(step["name"]) for step in steps if step["status"] == "running"]
    failed = sum(step["status"] == "failed" for step in steps)
    note = f"{failed:,} failed" if failed else ""
    words = text.count(len(steps), "step") + (f": {' › '.join(running[:_NAMED])}" if running else "")
    return _line("◐" if running else "⋯", "yellow" if running else "dim", words, note, room)


def _sub_trace(sub: Mapping[str, Any], room: int | None) -> Text:
    stats, status = sub["stats"], sub["status"]
    note = _stats(stats, stats["total_messages"], _outcome(sub))
    glyph, style = STATUS_GLYPHS.get(status, "?"), STATUS_STYLES.get(status, "dim")
    label = Text(no_wrap=True, overflow="ellipsis")
    label.append(f"↳ {text.one_line(sub['agent_type'])} ", "magenta")
    return label.append_text(_line(glyph, style, sub["task"], note, None if room is None else room - label.cell_len))


def _outcome(trace: Mapping[str, Any]) -> str:
    """The status, and of what failed the beginning of its error."""
    error = error_line(trace.get("error"))
    return f"{trace['status']}: {text.cut(text.one_line(error), _ERROR_CELLS)}" if error else str(trace["status"])


def _line(glyph: str, style: str, words: str, note: str, room: int | None, *, bold: bool = False) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{glyph} ", style)
    words, note = text.one_line(words), text.one_line(note)
    if room is not None:  # the text is cut so that the numbers stay visible
        words = text.cut(words, max(room - 4 - cell_len(note), 24))
    line.append(words, "bold" if bold else "")
    if note:
        line.append(f"  {note}", "dim")
    return line


def _stats(sums: Mapping[str, Any], messages: int, last: str) -> str:
    used, cost = text.used(sums, sums["total_tokens"]), sums["total_cost"]
    parts = [text.count(messages, "message")] if messages else []
    parts += [used] if used else []
    parts += [text.dollars(cost)] if cost else []
    return " · ".join([*parts, *([last] if last else [])])
