"""A trace's goals as a tree with their stats, sub-traces under the goal that started them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text
from rich.tree import Tree

from . import text
from .lines import GOAL_GLYPHS, GOAL_STYLES, STATUS_GLYPHS, STATUS_STYLES, readable

MAX_DEPTH = 40  # of sub-traces within sub-traces


@dataclass(frozen=True)
class View:
    """A trace as of one event. ``below``: views of its sub-traces, as far as they are shown, by trace_id."""

    trace: Mapping[str, Any]
    goals: Iterable[Mapping[str, Any]]  # depth first
    sub_traces: Iterable[Mapping[str, Any]]
    pending_inputs: Iterable[Mapping[str, Any]] = ()
    below: Mapping[str, View] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Mapping[str, Any], below: Mapping[str, View] | None = None) -> View:
        """From the answer of ``GET /api/traces/{id}``."""
        goals = answer["goal_tree"]["goals"]
        return cls(answer["trace"], goals, answer["sub_traces"], answer["pending_inputs"], below or {})


def goal_tree(view: View, *, heading: Text | None = None, depth: int = 0) -> Tree:
    """The tree of a trace, its task at the root."""
    root = Tree(heading or _heading(view.trace), guide_style="dim")
    current = view.trace.get("current_goal_id")
    branches: dict[str | None, Tree] = {None: root}
    for goal in view.goals:
        above = branches.get(goal["parent_id"], root)
        branches[goal["id"]] = above.add(_goal(goal, current=goal["id"] == current))
    for sub in view.sub_traces:
        above = branches.get(sub.get("parent_goal_id"), root)
        below = view.below.get(sub["trace_id"])
        if below is not None and depth < MAX_DEPTH:
            above.children.append(goal_tree(below, heading=_sub_trace(sub), depth=depth + 1))
        else:
            above.add(_sub_trace(sub))
    for asked in view.pending_inputs:
        above = branches.get(asked.get("goal_id"), root)
        above.add(_line("?", "magenta", readable(asked["question"]), "open question"))
    return root


def _heading(trace: Mapping[str, Any]) -> Text:
    totals = trace.get("tree_totals") or trace
    words = _stats(totals["total_messages"], totals["total_tokens"], totals["total_cost"], str(trace["status"]))
    heading = _line(
        STATUS_GLYPHS.get(trace["status"], "?"), STATUS_STYLES.get(trace["status"], "dim"), trace["task"], words
    )
    heading.stylize("bold", 2, 2 + len(text.one_line(trace["task"])))
    return heading


def _goal(goal: Mapping[str, Any], *, current: bool) -> Text:
    stats = goal["cumulative_stats"]
    words = _stats(stats["message_count"], stats["total_tokens"], stats["total_cost"], stats["preview"])
    label = _line(GOAL_GLYPHS[goal["status"]], GOAL_STYLES[goal["status"]], goal["description"], words)
    if current:
        label.stylize("bold", 2, 2 + len(text.one_line(goal["description"])))
    if goal["status"] == "abandoned":
        label.stylize("dim")
    return label


def _sub_trace(sub: Mapping[str, Any]) -> Text:
    stats = sub["stats"]
    words = _stats(stats["total_messages"], stats["total_tokens"], stats["total_cost"], str(sub["status"]))
    label = Text("↳ ", "magenta", no_wrap=True, overflow="ellipsis")
    label.append(f"{text.one_line(sub['agent_type'])} ", "magenta")
    label.append_text(
        _line(STATUS_GLYPHS.get(sub["status"], "?"), STATUS_STYLES.get(sub["status"], "dim"), sub["task"], words)
    )
    return label


def _line(glyph: str, style: str, words: str, note: str) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{glyph} ", style)
    line.append(text.one_line(words))
    if note:
        line.append(f"  {text.one_line(note)}", "dim")
    return line


def _stats(messages: int, tokens: int, cost: float, last: str) -> str:
    parts = [text.count(messages, "message")] if messages else []
    parts += [text.count(tokens, "token")] if tokens else []
    parts += [text.dollars(cost)] if cost else []
    return " · ".join([*parts, *([last] if last else [])])
