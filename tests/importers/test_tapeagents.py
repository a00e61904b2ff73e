"""Tapes: agents become sub-traces, actions become tool messages, and every step keeps its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .folding import Imported, import_json, import_lines


def step(kind: str, agent: str = "", *, node: str = "", other: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"id": f"id-{kind}", "agent": agent, "node": node, "other": other or {}},
        **fields,
    }


def tape(*steps: Any, context: Any = None, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"id": "t", "error": None, "result": None, **metadata},
        "context": context,
        "steps": list(steps),
    }


def agents(done: Imported) -> list[tuple[str, str | None]]:
    """Each trace's agent path with its parent's."""
    paths = {tid: spec["metadata"].get("agent", spec["agent_type"]) for tid, spec in done.specs.items()}
    return [(paths[tid], paths.get(spec["parent_trace_id"] or "")) for tid, spec in done.specs.items()]


def steps_of(done: Imported) -> list[dict[str, Any]]:
    """Everything the traces keep of steps, wherever it stands."""
    kept = []
    for events in done.events.values():
        for event in events:
            for holder in (event, event.get("message", {}), event.get("patch", {})):
                kept += [holder[key] for key in ("step", "observation") if key in holder]
    return kept


def test_calls_and_responses_are_sub_traces_below_goals(tmp_path: Path) -> None:
    done = import_json(
        tmp_path,
        tape(
            step("call", "Boss", content="Plot it.", agent_name="Manager"),
            step("call", "Boss/Manager", content="", agent_name="Coder"),
            step("respond", "Boss/Manager/Coder", content="Here is code."),
            step("call", "Boss/Manager", content="Run it", agent_name="Runner"),
            step("execute_code", "Boss/Manager/Runner", code=["x"]),
            step("code_execution_result", result={"exit_code": 0}),
            step("respond", "Boss/Manager/Runner", content="It ran."),
            step("respond", "Boss/Manager", content="", copy_output=True),
            step("final_step", "Boss", reason="All done"),
        ),
    )
    assert done.faults == []
    assert agents(done) == [
        ("Boss", None),
        ("Boss/Manager", "Boss"),
        ("Boss/Manager/Coder", "Boss/Manager"),
        ("Boss/Manager/Runner", "Boss/Manager"),
    ]
    assert done.statuses == ["completed"] * 4
    boss, manager, _coder, runner = done.traces.values()
    assert (boss.task, boss.summary) == ("Plot it.", "All done")
    assert [(g["description"], g["type"], g["status"]) for g in boss.goals.values()] == [
        ("Manager: Plot it.", "agent_call", "completed")
    ]
    assert [(g["description"], g["summary"], len(g["sub_trace_ids"])) for g in manager.goals.values()] == [
        ("Coder", "Here is code.", 1),
        ("Runner: Run it", "It ran.", 1),
    ]
    tool = next(m for m in runner.messages.values() if m["role"] == "tool")
    assert tool["content"] == {
        "tool_name": "execute_code",
        "arguments": {"code": ["x"]},
        "result": {"result": {"exit_code": 0}},
    }
    assert len(steps_of(done)) == 9


def test_paths_without_calls_open_and_close_their_agents(tmp_path: Path) -> None:
    done = import_json(
        tmp_path,
        tape(
            step("verbs", "Top/Find", verbs=["am"]),
            step("verbs", "Top/Filter", verbs=["be"]),
            step("end", "Top"),
            context="A text.",
        ),
    )
    assert agents(done) == [("Top", None), ("Top/Find", "Top"), ("Top/Filter", "Top")]
    assert done.statuses == ["completed"] * 3
    assert done.root.task == "A text."
    assert done.messages("-".join([done.root.trace_id, "s1"]))[0]["content"] == {"verbs": ["am"]}


def test_an_agent_that_was_called_waits_while_its_caller_hands_over_the_input(tmp_path: Path) -> None:
    done = import_json(
        tmp_path,
        tape(
            step("call", "Top", content="", agent_name="Sub"),
            step("nouns", "Top", nouns=["x"]),
            step("answer", "Top/Sub", text="fine"),
            step("respond", "Top/Sub", content="", copy_output=True),
        ),
    )
    assert agents(done) == [("Top", None), ("Top/Sub", "Top")]
    assert [m["content"] for m in done.messages()] == [{"nouns": ["x"]}]
    assert list(done.traces.values())[1].summary == "fine"


def test_an_agent_called_for_nothing_is_stopped(tmp_path: Path) -> None:
    done = import_json(tmp_path, tape(step("call", "A", agent_name="B"), step("call", "A", agent_name="C")))
    assert done.statuses == ["completed", "stopped", "stopped"]
    assert {g["status"] for g in done.root.goals.values()} == {"abandoned"}


def test_an_agent_beside_the_first_becomes_its_sub_agent(tmp_path: Path) -> None:
    done = import_json(
        tmp_path, tape(step("note", "A", text="a"), step("note", "B/C", text="b"), step("note", "A", text="c"))
    )
    assert agents(done) == [("A", None), ("B/C", "A")]
    assert [m["content"] for m in done.messages()] == ["a", "c"]


def test_actions_and_observations_are_tool_messages(tmp_path: Path) -> None:
    done = import_json(
        tmp_path,
        tape(
            step("page_observation", text="start page"),
            step("task", task="Find x", template="{task}"),
            step("click_action", "Web", bid="7"),
            step("set_next_node", "Web", next_node="act"),
            step("page_observation", text="page", error="", other={"action_execution_time": 1.5}),
            step("search_action", "Web", query="x"),
            step("action_execution_failure", error="boom"),
            step("final_answer_action", "Web", text="22"),
        ),
    )
    first, asked, click, search, answer = done.messages()
    assert (first["content"], first["no_call"]) == (
        {"tool_name": "page_observation", "result": {"text": "start page"}},
        True,
    )
    assert (asked["role"], asked["content"], asked["step"]["template"]) == ("user", "Find x", "{task}")
    assert click["content"] == {
        "tool_name": "click",
        "arguments": {"bid": "7"},
        "result": {"text": "page", "error": ""},
    }
    assert (click["duration_ms"], click["step"]["kind"], click["observation"]["kind"]) == (
        1500,
        "click_action",
        "page_observation",
    )
    assert search["content"]["error"] == {"error": "boom"}
    assert (answer["role"], answer["content"]) == ("assistant", "22")
    assert (done.root.status, done.root.summary, done.root.task) == ("completed", "22", "Find x")
    assert len(steps_of(done)) == 8


def test_thoughts_keep_all_they_hold(tmp_path: Path) -> None:
    done = import_json(
        tmp_path,
        tape(
            step("question", content="q", filename="f.docx"),
            step("reasoning_thought", "W", node="plan", reasoning="1. look"),
            step("facts_survey_thought", "W", given=["a"], guesses=["b"]),
            step("reflection_thought", "W", page_state="ok", task_solved=False),
        ),
    )
    question, plan, facts, reflection = done.messages()
    assert question["step"]["filename"] == "f.docx"
    assert (plan["content"], plan["description"], plan["kind"]) == ("1. look", "plan: 1. look", "reasoning_thought")
    assert facts["content"] == {"given": ["a"], "guesses": ["b"]}
    assert facts["description"].startswith("facts survey")
    assert reflection["content"] == {"page_state": "ok", "task_solved": False}
    assert reflection["description"] == "ok"


def test_assistant_and_tool_steps_are_chat_messages(tmp_path: Path) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "ticker", "arguments": '{"c":"V"}'}}]
    done = import_json(
        tmp_path,
        tape(
            step("user", content="Tell me"),
            step("assistant", "Agent", tool_calls=calls),
            step("set_next_node", "Agent", next_node="act"),
            step("tool", content="VMC", tool_call_id="c1"),
            step("assistant", "Agent", content="It is VMC."),
        ),
    )
    user, tool, answer = done.messages()
    assert user["role"] == "user"
    assert tool["content"] == {"tool_name": "ticker", "arguments": {"c": "V"}, "result": "VMC"}
    assert tool["source"]["step"]["metadata"]["id"] == "id-assistant"
    assert (answer["content"], answer["agent"]) == ("It is VMC.", "Agent")


def test_model_calls_give_time_tokens_and_model(tmp_path: Path) -> None:
    call = {
        "timestamp": "2025-01-24T03:19:21.718835",
        "prompt_length_tokens": 75,
        "output_length_tokens": 25,
        "cost": 0.5,
        "llm_info": {"model_name": "llama"},
    }
    done = import_json(
        tmp_path,
        tape(
            step("task", task="t"),
            step("reasoning_thought", "A", reasoning="r", other={"llm_call": call}),
            step("page_observation", text="p", other={"info": {"action_exec_stop": 1749640849.6346}}),
            step("answer", "A", text="x"),
        ),
    )
    events = done.events[done.root.trace_id]
    called, seen = "2025-01-24T03:19:21.718Z", "2025-06-11T11:20:49.634Z"
    # A step without a time has that of the one before it, so that the run is when it was
    assert [e.get("occurred_at") for e in events] == [called, called, seen, seen, seen]
    assert (done.root.started_at, done.root.ended_at, done.root.metadata.get("times")) == (called, seen, None)
    thought = done.messages()[1]
    assert (thought["tokens"], thought["cost"], thought["model"]) == (100, 0.5, "llama")
    assert thought["step"]["metadata"]["other"] == {"llm_call": call}


def test_how_a_tape_ended_is_told_honestly(tmp_path: Path) -> None:
    asked, act = step("user", content="q"), step("click_action", "A", bid="1")
    seen, said = step("page_observation", text="p"), step("assistant", "A", content="Done.")
    turn = step("set_next_node", "A", next_node="act")

    def outcome(*steps: Any, **metadata: Any) -> tuple[str, str | None, Any]:
        root = import_json(tmp_path, tape(*steps, **metadata)).root
        return root.status, root.summary, root.error

    cut = "the tape ends before the agent has answered"
    assert outcome(asked, act, seen, said) == ("completed", "Done.", None)
    assert outcome(asked, act, seen, said, result="17") == ("completed", "17", None)
    assert outcome(asked, said, error="out of money") == ("failed", "Done.", "out of money")
    assert outcome(asked, said, terminated=True) == ("stopped", "Done.", None)
    assert outcome(asked, act, turn) == ("stopped", cut, None)
    assert outcome(asked, act, turn, seen) == ("stopped", cut, None)
    assert outcome(asked) == ("stopped", cut, None)
    assert outcome(asked, step("reasoning_thought", "A", reasoning="Hm")) == ("stopped", cut, None)
    assert outcome(asked, step("reasoning_thought", "A", reasoning="Hm"), result="17") == ("completed", "17", None)
    assert outcome() == ("stopped", "no steps: this tape has not been run", None)
    assert outcome(asked, step("gaia_answer_action", "A", success=False, answer="x"))[:2] == ("failed", "x")


def test_a_list_is_several_traces_and_the_context_an_event(tmp_path: Path) -> None:
    done = import_json(tmp_path, [tape(context={"tools": ["a"]}, author="Me"), tape(step("note", "B", text="x"))])
    assert [t[-5:] for t in done.traces] == ["-0001", "-0002"]
    assert [s["agent_type"] for s in done.specs.values()] == ["Me", "B"]
    assert done.names() == ["tape.context", "trace_completed"]
    assert done.events[done.root.trace_id][0]["context"] == {"tools": ["a"]}
    assert done.root.metadata["tape"]["author"] == "Me"


def test_faults_name_the_step_and_the_rest_is_imported(tmp_path: Path) -> None:
    done = import_json(tmp_path, [tape(4, {"metadata": {}}, step("note", "A", text="x")), {"model_name": "m"}, tape()])
    assert done.said == [
        "[0].steps[0]: a step is a JSON object",
        "[0].steps[1].kind: must be the step's kind",
        "[1].steps: this is not a tape: a tape has a list of steps",
    ]
    assert len(done.traces) == 2
    assert [m["content"] for m in done.messages()] == ["x"]
    lines = import_lines(
        tmp_path, tape(), "{broken", {"steps": 4}, tape(step("note", "A", text="x")), format="tapeagents"
    )
    assert [f.line for f in lines.faults] == [2, 3]
    assert len(lines.traces) == 2


def test_a_step_may_lack_all_but_its_kind(tmp_path: Path) -> None:
    bare = [{"kind": "note"}, {"kind": "x_action", "metadata": None}, {"kind": "call", "metadata": {"agent": "A"}}]
    done = import_json(
        tmp_path, {"metadata": None, "context": None, "steps": [*bare, {"kind": "respond", "metadata": {"agent": "A"}}]}
    )
    assert done.faults == []
    assert len(done.traces) == 1
