"""SWE-agent's trajectories (``<instance>.traj``): the turns of thought, action and observation towards one instance.

Checked against docs/usage/trajectories.md of SWE-agent/SWE-agent (1.1).

Rule 1: a file is a trace ``swe-<digest of its beginning>``: it is written anew after each turn. A turn is what the
        model said and, below it, the action as a tool call.
Rule 2: the messages that each turn repeats (``query``, ``messages``) are left out, since the turns have them; so is
        ``history``, but for what stands before the first answer: the prompts. The rest of a turn stands in ``source``.
Rule 3: the cost and the tokens of the whole run stand with the first answer, which is the same when there are more. It
        is completed if something was submitted, and otherwise stopped with the exit status.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import amount, count
from .openai import add_message, task_of
from .reading import digest_of, text_of, without
from .steps import ImportFault, Step
from .traces import TraceWriter, read_document


def is_traj(value: Any) -> bool:
    """Whether a JSON value is such a trajectory."""
    steps = value.get("trajectory") if isinstance(value, dict) else None
    return isinstance(steps, list) and ("history" in value or "info" in value or bool(steps and "action" in steps[0]))


def read(path: Path) -> Iterator[Step]:
    """The steps of a trajectory."""
    unknown = ImportFault("this is JSON, and no trajectory: it has a list of turns", None, "trajectory")

    def tell(out: list[Step], value: dict[str, Any]) -> Iterator[None]:
        _trace(out, value, path.stem.removesuffix(".traj"))
        yield

    return read_document(path, is_traj, unknown, tell)


def _name(prompts: list[Any], turns: list[Any], instance: str) -> str:
    """The trace's name: of what the file has from its first turn on, of which how long it took is the run's own."""
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    parts = [first.get(key) for key in ("response", "thought", "action", "observation", "execution_time")]
    return f"swe-{digest_of([instance, prompts, parts])}"


def _trace(out: list[Step], value: dict[str, Any], instance: str) -> None:
    info = value["info"] if isinstance(value.get("info"), dict) else {}
    history = value["history"] if isinstance(value.get("history"), list) else []
    prompts = []
    for message in history:
        if isinstance(message, dict) and message.get("role") == "assistant":
            break
        prompts.append(message)
    rest = without(value, "trajectory", "history", "info")
    metadata = {"format": "swe-agent", "instance": instance, "info": without(info, "submission"), "source": rest}
    turns = value["trajectory"]
    trace = TraceWriter(out, _name(prompts, turns, instance), timeless=True, grows=True)
    trace.create(task_of(prompts) or instance, agent_type="swe-agent", metadata=metadata)
    for place, prompt in enumerate(prompts):
        add_message(trace, prompt, line=None, path=f"history[{place}]")
    stats = info["model_stats"] if isinstance(info.get("model_stats"), dict) else {}
    for place, turn in enumerate(turns):
        if isinstance(turn, dict):
            _turn(trace, place, turn, stats if place == 0 else {})
        else:
            trace.out.append(ImportFault("a turn is a JSON object", None, f"trajectory[{place}]"))
    left, submission = info.get("exit_status"), info.get("submission")
    if submission or str(left or "").startswith("submitted"):
        trace.complete("completed", summary=submission if isinstance(submission, str) else trace.last_text)
    else:
        trace.complete("stopped", summary=str(left or "the trajectory ends without a submission"))


def _turn(trace: TraceWriter, place: int, turn: dict[str, Any], stats: dict[str, Any]) -> None:
    said, thought = text_of(turn.get("response")), text_of(turn.get("thought"))
    rest = without(turn, "response", "thought", "action", "observation", "query", "messages", "execution_time")
    if not said and turn.get("response"):
        rest["response"] = turn["response"]
    fields: dict[str, Any] = {"source": rest}
    used = {"input_tokens": count(stats.get("tokens_sent")), "output_tokens": count(stats.get("tokens_received"))}
    if None not in used.values():
        fields |= {"usage": used, "usage_of": "whole run"}
    if cost := amount(stats.get("instance_cost")):
        fields |= {"cost": cost, "cost_of": "whole run"}
    trace.message("assistant", said or thought, **fields)
    if thought and said and thought.strip() not in said:
        trace.message("assistant", thought, kind="thought")
    action = turn.get("action")
    if action is None or action == "":
        if turn.get("observation"):
            trace.message("user", turn["observation"], kind="observation")
        return
    took = turn.get("execution_time")
    call_id = f"turn-{place}"
    trace.call("action", {"command": action}, call_id=call_id)
    duration = round(took * 1000, 3) if isinstance(took, (int, float)) and took >= 0 else None
    trace.result(call_id, turn.get("observation"), duration_ms=duration)
