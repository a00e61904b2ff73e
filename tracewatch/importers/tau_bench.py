"""tau-bench result files: a JSON list of ``{task_id, reward, info, traj, trial}``; ``traj`` are chat messages.

Rule 1: the file is one parent trace, the evaluation, with a goal for each task and a sub-trace for each run.
Rule 2: a run with reward 1 is completed, any other one has failed. The evaluation is completed: ``84 of 200 passed``.
Rule 3: ``info.user_cost`` is the cost of the simulated user over the whole run. It becomes the ``cost`` of the run's
        last user message (``cost_of: simulated user, whole run``), so that the totals are true. The run's metadata
        has it too.
Rule 4: the format has no times: ``occurred_at`` is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import amount
from .openai import add_message, task_of
from .reading import BadJson, clip, digest, documents, text_of, without
from .steps import ImportFault, Step
from .traces import TraceWriter, drain

Run = tuple[int, dict[str, Any]]  # (its place in the file, the run)


def read(path: Path) -> Iterator[Step]:
    """The steps of the evaluation and all its runs."""
    runs: list[Run] = []
    found = 0
    for line, value in documents(path):
        if isinstance(value, BadJson):
            yield ImportFault(value.message, value.line)
        elif isinstance(value, list) or line is not None:  # a list of runs, or one run on each line
            for run in value if isinstance(value, list) else [value]:
                if fault := _fault(run, found, line):
                    yield fault
                else:
                    runs.append((found, run))
                found += 1
        else:
            yield ImportFault("a tau-bench file is a JSON list of runs")
    if not found:
        return
    yield from _evaluation(f"tau-{digest([path])}", runs)


def _fault(run: Any, index: int, line: int | None) -> ImportFault | None:
    if not isinstance(run, dict):
        return ImportFault("a run is a JSON object", line, f"[{index}]")
    if not isinstance(run.get("traj"), list):
        return ImportFault("must be the list of the run's messages", line, f"[{index}].traj")
    if _reward(run) is None:
        return ImportFault("must be a number", line, f"[{index}].reward")
    return None


def _reward(run: dict[str, Any]) -> float | None:
    reward = run.get("reward")
    return float(reward) if isinstance(reward, (int, float)) and not isinstance(reward, bool) else None


def _passed(run: dict[str, Any]) -> bool:
    return (_reward(run) or 0.0) >= 1.0 - 1e-6  # as tau-bench itself counts a success


def _evaluation(trace_id: str, runs: list[Run]) -> Iterator[Step]:
    out: list[Step] = []
    evaluation = TraceWriter(out, trace_id, timeless=True)
    score = f"{sum(_passed(run) for _, run in runs)} of {len(runs)} passed"
    tasks: dict[str, list[Run]] = {}
    for index, run in runs:
        tasks.setdefault(str(run.get("task_id", index)), []).append((index, run))
    evaluation.create(
        f"tau-bench: {len(tasks)} tasks, {len(runs)} runs",
        agent_type="evaluation",
        metadata={"format": "tau-bench", "runs": len(runs), "passed": sum(_passed(run) for _, run in runs)},
    )
    goals = {
        task_id: evaluation.goal(f"Task {task_id}: {clip(_instruction(group[0][1]), 200)}", type="agent_call")
        for task_id, group in tasks.items()
    }
    left = {task_id: len(group) for task_id, group in tasks.items()}
    for index, run in runs:
        task_id = str(run.get("task_id", index))
        if left[task_id] == len(tasks[task_id]):
            evaluation.goal_update(goals[task_id], status="in_progress")
        _run(evaluation, index, run, goals[task_id])
        left[task_id] -= 1
        if not left[task_id]:
            won = sum(_passed(run) for _, run in tasks[task_id])
            summary = f"{won} of {len(tasks[task_id])} passed"
            evaluation.goal_update(goals[task_id], status="completed", summary=summary)
        yield from drain(out)
    evaluation.complete("completed", summary=score)
    yield from drain(out)


def _instruction(run: dict[str, Any]) -> str:
    info = run.get("info")
    task = info.get("task") if isinstance(info, dict) else None
    text = task.get("instruction") if isinstance(task, dict) else None
    return text if isinstance(text, str) else task_of(run["traj"])


def _run(evaluation: TraceWriter, index: int, run: dict[str, Any], goal_id: str) -> None:
    trace = TraceWriter(evaluation.out, f"{evaluation.trace_id}-{index:04d}", timeless=True)
    info = run["info"] if isinstance(run.get("info"), dict) else {}
    known: dict[str, Any] = {key: run[key] for key in ("task_id", "trial", "reward") if key in run}
    metadata: dict[str, Any] = {"format": "tau-bench", **known}
    if "user_cost" in info:
        metadata["user_cost"] = info["user_cost"]
    trace.create(
        task_of(run["traj"]), agent_type="tau-bench", parent=evaluation, parent_goal_id=goal_id, metadata=metadata
    )
    paid = _last_user(run["traj"])
    cost = amount(info.get("user_cost")) or None  # 0: nobody counted
    for place, message in enumerate(run["traj"]):
        fields: dict[str, Any] = {}
        if place == paid and cost is not None:
            fields = {"cost": cost, "cost_of": "simulated user, whole run"}
        add_message(trace, message, line=None, path=f"[{index}].traj[{place}]", **fields)
    trace.event("tau_bench.result", {"passed": _passed(run), "run": without(run, "traj")})
    reward = _reward(run)
    if _passed(run):
        trace.complete("completed", summary=f"passed: reward {reward:g}")
    else:
        trace.complete("failed", summary=f"failed: reward {reward:g}", error=f"reward {reward:g} of 1")


def _last_user(messages: list[Any]) -> int | None:
    """The place of the last message with words of the simulated user."""
    places = [i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "user"]
    return next((i for i in reversed(places) if text_of(messages[i].get("content")).strip()), None)
