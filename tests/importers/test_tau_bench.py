"""tau-bench result files: one evaluation, a goal for each task, a sub-trace for each run, rewards as outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .folding import import_json, import_lines

CHAT = [
    {"role": "system", "content": "policy"},
    {"role": "user", "content": "Book a flight."},
    {"role": "assistant", "content": "Which?"},
    {"role": "user", "content": "That one."},
    {"role": "assistant", "content": "Done."},
]


def run(task_id: int, reward: float, trial: int = 0, **fields: Any) -> dict[str, Any]:
    info = {"task": {"instruction": f"You want {task_id}."}, "user_cost": 0.25, "source": "user"}
    return {"task_id": task_id, "reward": reward, "info": info, "traj": CHAT, "trial": trial, **fields}


def test_the_file_is_an_evaluation_of_runs(tmp_path: Path) -> None:
    done = import_json(tmp_path, [run(3, 0.0), run(5, 1.0), run(3, 1.0, 1), run(5, 1.0, 1)])
    assert done.faults == []
    evaluation = done.root
    assert (evaluation.agent_type, evaluation.status, evaluation.summary) == (
        "evaluation",
        "completed",
        "3 of 4 passed",
    )
    assert evaluation.task == "tau-bench: 2 tasks, 4 runs"
    assert [(g["description"], g["status"], g["summary"]) for g in evaluation.goals.values()] == [
        ("Task 3: You want 3.", "completed", "1 of 2 passed"),
        ("Task 5: You want 5.", "completed", "2 of 2 passed"),
    ]
    assert done.statuses[1:] == ["failed", "completed", "completed", "completed"]
    runs = list(done.specs.values())[1:]
    assert {spec["parent_trace_id"] for spec in runs} == {evaluation.trace_id}
    assert [spec["parent_goal_id"] for spec in runs] == ["goal-1", "goal-2", "goal-1", "goal-2"]
    assert [spec["trace_id"].removeprefix(evaluation.trace_id) for spec in runs] == ["-0000", "-0001", "-0002", "-0003"]
    assert {spec["task"] for spec in runs} == {"Book a flight."}
    assert len(evaluation.goals["goal-1"]["sub_trace_ids"]) == 2


def test_the_simulated_user_costs_once(tmp_path: Path) -> None:
    done = import_json(tmp_path, [run(0, 0.0), run(1, 1.0)])
    failed = list(done.traces.values())[1]
    assert failed.total_cost == 0.25
    told = {"task_id": 0, "trial": 0, "reward": 0.0, "user_cost": 0.25}
    assert failed.metadata == {"format": "tau-bench", **told, "times": "none"}
    assert [m.get("cost") for m in done.messages(failed.trace_id)] == [None, None, None, 0.25, None]
    assert done.root.tree_totals()["total_cost"] == 0.5
    assert (failed.summary, failed.error) == ("failed: reward 0", "reward 0 of 1")


def test_everything_else_of_a_run_is_kept(tmp_path: Path) -> None:
    done = import_json(tmp_path, [run(0, 1.0, extra=[1])])
    trace_id = list(done.traces)[1]
    (result,) = [e for e in done.events[trace_id] if e["event"] == "tau_bench.result"]
    assert result["passed"] is True
    assert result["run"]["extra"] == [1]
    assert result["run"]["info"]["task"] == {"instruction": "You want 0."}
    assert "occurred_at" not in result


def test_faults_name_the_run_and_the_rest_is_imported(tmp_path: Path) -> None:
    runs = [run(0, 1.0), 5, {"task_id": 1, "reward": 1.0}, {**run(2, 1.0), "reward": None}, run(3, 0.0, info=None)]
    runs.append(run(4, 1.0, traj=[*CHAT, "what?"]))
    done = import_json(tmp_path, runs)
    assert done.said == [
        "[1]: a run is a JSON object",
        "[2].traj: must be the list of the run's messages",
        "[3].reward: must be a number",
        "[5].traj[5]: a message is a JSON object",
    ]
    assert done.root.summary == "2 of 3 passed"
    assert done.root.goals["goal-2"]["description"] == "Task 3: Book a flight."


def test_a_document_that_is_no_list_is_a_fault(tmp_path: Path) -> None:
    done = import_json(tmp_path, {"traj": []}, "tau-bench")
    assert done.said == ["a tau-bench file is a JSON list of runs"]
    assert done.traces == {}


def test_a_run_a_line_is_the_same_evaluation(tmp_path: Path) -> None:
    done = import_lines(
        tmp_path, run(0, 1.0), "{broken", {**run(1, 1.0), "reward": "high"}, run(2, 0.0), format="tau-bench"
    )
    assert done.said[0].startswith("line 2: this is not JSON")
    assert done.said[1] == "line 3: [1].reward: must be a number"
    assert done.root.summary == "1 of 2 passed"
