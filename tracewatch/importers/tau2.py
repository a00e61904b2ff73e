"""tau2-bench's results: the simulations of tasks, each a conversation of the agent with a simulated user.

Checked against src/tau2/data_model/message.py and simulation.py of sierra-research/tau2-bench.

Rule 1: a file is a trace ``tau2-<digest>`` with a goal for each task, and a simulation is a sub-trace below its goal,
        with its own id. A simulation that is the whole file is a trace by itself.
Rule 2: a call is the assistant's or the simulated user's: ``requestor`` says whose. Costs and usage are each message's.
Rule 3: a simulation with a reward of 1 is completed, one with less has failed; one that was cut off (too many steps or
        errors, a timeout) is stopped with its reason, as is one without a reward.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import amount
from .openai import add_message, task_of
from .reading import clip, digest, digest_of, name_of, time_of, without
from .steps import ImportFault, Step
from .traces import TraceWriter, read_document

_ENDS = ("agent_stop", "user_stop")


def is_results(value: Any) -> bool:
    """Whether a JSON value is such a file of results, or one simulation."""
    return isinstance(value, dict) and (isinstance(value.get("simulations"), list) or _is_simulation(value))


def _is_simulation(value: Any) -> bool:
    return isinstance(value, dict) and {"task_id", "messages", "termination_reason"} <= value.keys()


def read(path: Path) -> Iterator[Step]:
    """The steps of all simulations in the file."""
    unknown = ImportFault("this is JSON, and no results of tau2: they have a list of simulations", None, "simulations")
    return read_document(path, is_results, unknown, lambda out, value: _tell(out, value, path))


def _tell(out: list[Step], value: dict[str, Any], path: Path) -> Iterator[None]:
    known = value.get("timestamp") or value.get("id")  # of the whole, which is written anew with each simulation
    name = digest_of([known, value.get("info")]) if known else digest([path])
    whole = TraceWriter(out, f"tau2-{name}", grows=bool(known))
    if _is_simulation(value):
        _simulation(whole, None, value, "", None)
        return
    runs = [run for run in value["simulations"] if isinstance(run, dict)]
    rest = without(value, "simulations", "tasks")
    metadata = {"format": "tau2", "runs": len(runs), "source": rest}
    whole.create(f"tau2: {len(runs)} simulations", agent_type="evaluation", metadata=metadata)
    goals: dict[str, str] = {}
    for place, run in enumerate(value["simulations"]):
        if not isinstance(run, dict) or not isinstance(run.get("messages"), list):
            out.append(ImportFault("a simulation is a JSON object with messages", None, f"simulations[{place}]"))
            continue
        task = str(run.get("task_id"))
        if task not in goals:
            goals[task] = whole.goal(f"Task {clip(task, 200)}", type="agent_call", status="in_progress")
        trace = TraceWriter(out, f"{whole.trace_id}-{place:04d}", grows=whole.grows)
        _simulation(trace, whole, run, f"simulations[{place}].", goals[task])
        yield
    for task, goal_id in goals.items():
        of = [run for run in runs if str(run.get("task_id")) == task]
        summary = f"{sum(_reward(run) == 1 for run in of)} of {len(of)} passed"
        whole.goal_update(goal_id, status="completed", summary=summary)
    whole.complete("completed", summary=f"{sum(_reward(run) == 1 for run in runs)} of {len(runs)} passed")


def _reward(run: dict[str, Any]) -> float | None:
    info = run.get("reward_info")
    return amount(info.get("reward")) if isinstance(info, dict) else None


def _simulation(
    trace: TraceWriter, parent: TraceWriter | None, run: dict[str, Any], path: str, goal_id: str | None
) -> None:
    messages = run["messages"]
    at = time_of(run.get("start_time"))
    trace.timeless = at is None
    known = without(run, "messages", "reward_info")
    task = task_of(messages)
    trace.create(
        task, agent_type="tau2", parent=parent, parent_goal_id=goal_id, metadata={"format": "tau2", **known}, at=at
    )
    for place, message in enumerate(_flat(messages)):
        given = message if isinstance(message, dict) else {}
        at = time_of(given.get("timestamp")) or at
        add_message(
            trace, _chat(given) if given else message, line=None, path=f"{path}messages[{place}]", at=at, **_used(given)
        )
    reward, why = _reward(run), run.get("termination_reason")
    trace.event("tau2.result", {"reward_info": run.get("reward_info"), "termination_reason": why}, at=at)
    at = time_of(run.get("end_time")) or at
    if reward is None or why not in (None, *_ENDS):
        trace.complete("stopped", summary=str(why or "no reward was given"), at=at)
    elif reward == 1:
        trace.complete("completed", summary="passed: reward 1", at=at)
    else:
        trace.complete("failed", summary=f"failed: reward {reward:g}", error=f"reward {reward:g} of 1", at=at)


def _flat(messages: list[Any]) -> Iterator[Any]:
    """The messages; the results of several calls stand in one of them."""
    for message in messages:
        several = message.get("tool_messages") if isinstance(message, dict) else None
        yield from several if isinstance(several, list) else [message]


def _chat(message: dict[str, Any]) -> dict[str, Any]:
    """A chat message as others have it."""
    chat = without(message, "timestamp", "usage", "cost", "id", "error")
    calls = message.get("tool_calls")
    chat["tool_calls"] = [
        {
            **without(call, "name", "arguments"),
            "function": {"name": call.get("name"), "arguments": call.get("arguments")},
        }
        for call in (calls if isinstance(calls, list) else ())
        if isinstance(call, dict)
    ]
    if message.get("role") == "tool":
        chat |= {"tool_call_id": message.get("id"), "is_error": message.get("error") is True}
    return chat


def _used(message: dict[str, Any]) -> dict[str, Any]:
    given = message["usage"] if isinstance(message.get("usage"), dict) else {}
    into, out = given.get("prompt_tokens"), given.get("completion_tokens")
    raw = message["raw_data"] if isinstance(message.get("raw_data"), dict) else {}
    fields: dict[str, Any] = {"model": name_of(raw.get("model"))}
    if cost := amount(message.get("cost")):
        fields["cost"] = cost
    if isinstance(into, int) and isinstance(out, int) and into >= 0 <= out:
        fields["usage"] = {"input_tokens": into, "output_tokens": out}
    return fields
