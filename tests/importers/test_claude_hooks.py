"""Hooks of Claude Code, told by hand: what becomes of each, and what is not repeated of a transcript."""

from __future__ import annotations

from typing import Any

from tracewatch.importers.claude_hooks import ClaudeHooks
from tracewatch.importers.claude_session import ClaudeSession
from tracewatch.importers.ledger import Ledger, steps_of
from tracewatch.importers.steps import AppendEvent, Put, Step

AT = "2026-03-01T09:00:00Z"


class Told:
    """A session that is told by hooks and lines, and the events that its log gets."""

    def __init__(self) -> None:
        self.hooks = ClaudeHooks("s")
        self.session = ClaudeSession("s")
        self.ledgers: dict[str, Ledger] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []

    def hook(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        self.hooks.hook({"session_id": "s", "prompt_id": "p1", "hook_event_name": name, **fields}, AT)
        return self._take(self.hooks.drain())

    def show(self, index: int, delta: str, *, final: bool = False, message_id: str = "d1") -> list[dict[str, Any]]:
        return self.hook("MessageDisplay", message_id=message_id, index=index, delta=delta, final=final)

    def line(self, **row: Any) -> list[dict[str, Any]]:
        self.session.line(1, {"timestamp": AT, "sessionId": "s", **row})
        return self._take(self.session.drain())

    def answer(self, text: str, answer_id: str = "msg_1") -> list[dict[str, Any]]:
        usage = {"input_tokens": 10, "output_tokens": 5}
        message = {"id": answer_id, "role": "assistant", "content": [{"type": "text", "text": text}], "usage": usage}
        return self.line(type="assistant", uuid=f"u-{answer_id}", message=message)

    def _take(self, steps: list[Put] | list[Step]) -> list[dict[str, Any]]:
        new = [step for step in steps_of(steps, self.ledgers) if isinstance(step, AppendEvent)]
        self.events += [(step.trace_id, step.event) for step in new]
        return [step.event for step in new]

    @property
    def texts(self) -> list[str]:
        """What was said, as it stands in the end."""
        found: dict[str, str] = {}
        for _, event in self.events:
            if event["event"] == "message_added" and isinstance(event["message"]["content"], str):
                found[event["message"]["message_id"]] = event["message"]["content"]
            elif event["event"] == "message_updated" and event["message_id"] in found:
                text = event.get("patch", {}).get("content", found[event["message_id"]])
                found[event["message_id"]] = text + event.get("append", "")
        return list(found.values())


def test_an_answer_that_streams_is_completed_by_its_line() -> None:
    told = Told()
    told.show(0, "One.\n")
    told.show(1, "Two.\n")
    event = told.answer("One.\nTwo.\nThree.")[-1]
    assert (event["message_id"], event["append"]) == ("shown-d1", "Three.")
    assert event["patch"]["also"] == "msg_1.0" and event["patch"]["usage"]["output_tokens"] == 5
    assert told.show(2, "Three.", final=True) == []
    assert told.answer("One.\nTwo.\nThree.") == []
    assert told.texts == ["One.\nTwo.\nThree."]


def test_pieces_in_any_order_and_one_that_is_missing() -> None:
    told = Told()
    for index, text in ((1, "two "), (0, "one "), (3, "four"), (0, "one ")):
        told.show(index, text, final=index == 3)
    assert told.texts == ["one two "]
    told.hook("Stop", last_assistant_message="one two three four")
    assert told.texts == ["one two three four"] or told.texts == ["one two four", "one two three four"]


def test_the_same_words_twice_are_two_answers() -> None:
    told = Told()
    told.show(0, "Done.", final=True, message_id="d1")
    told.answer("Done.", "msg_1")
    told.show(0, "Done.", final=True, message_id="d2")
    told.answer("Done.", "msg_2")
    assert told.texts == ["Done.", "Done."]


def test_a_line_before_its_hook_is_not_told_again() -> None:
    told = Told()
    told.line(type="user", uuid="u0", promptId="p1", message={"role": "user", "content": "Go on"})
    assert [event["event"] for event in told.hook("UserPromptSubmit", prompt="Go on")] == ["message_updated"]
    told.answer("All of it is done.")
    told.show(0, "All of it", final=False)
    told.show(1, " is done.", final=True)
    assert told.hook("Stop", last_assistant_message="All of it is done.")[-1]["status"] == "idle"
    assert told.texts == ["Go on", "All of it is done."]


def test_a_sub_agent_stands_below_the_call_that_waits_for_one_of_its_type() -> None:
    told = Told()
    told.hook("UserPromptSubmit", prompt="Ask two")
    for call_id, kind in (("t1", "Explore"), ("t2", "Plan")):
        given = {"prompt": f"{kind}!", "subagent_type": kind, "description": kind}
        told.hook("PreToolUse", tool_name="Agent", tool_use_id=call_id, tool_input=given)
    told.hook("SubagentStart", agent_id="a2", agent_type="Plan")
    told.hook("SubagentStart", agent_id="a1", agent_type="Explore")
    spec = told.ledgers["cc-s-a2"].spec
    assert spec is not None and (spec["task"], spec["parent_goal_id"]) == ("Plan!", "agent-t2")
    told.hook("PreToolUse", agent_id="a2", tool_name="Bash", tool_use_id="b", tool_input={"command": "ls"})
    told.hook("SubagentStop", agent_id="a2", last_assistant_message="A plan.")
    told.hook("PostToolUse", tool_name="Agent", tool_use_id="t2", tool_response={"agentId": "a2", "content": []})
    ends = [event for trace_id, event in told.events if trace_id == "cc-s-a2" and event["event"] == "trace_completed"]
    assert [end["status"] for end in ends] == ["completed"]


def test_a_turn_that_fails_and_a_session_that_is_left_in_the_middle() -> None:
    told = Told()
    told.hook("UserPromptSubmit", prompt="Go")
    told.hook("StopFailure", error="overloaded")
    assert told.hook("SessionEnd", reason="other")[-1]["status"] == "failed"
    told = Told()
    told.hook("UserPromptSubmit", prompt="Go")
    told.hook("PreToolUse", tool_name="Bash", tool_use_id="b", tool_input={"command": "sleep 9"})
    assert told.hook("SessionEnd", reason="prompt_input_exit")[-1]["status"] == "stopped"
    assert told.hook("UserPromptSubmit", prompt="Again", prompt_id="p2")[0]["status"] == "running"


def test_a_permission_finds_its_call() -> None:
    told = Told()
    for call_id in ("t1", "t2"):
        told.hook("PreToolUse", tool_name="Bash", tool_use_id=call_id, tool_input={"command": call_id})
    body = {"session_id": "s", "hook_event_name": "PermissionRequest", "tool_name": "Bash"}
    asked = told.hooks.hook({**body, "tool_input": {"command": "t1"}}, AT)
    assert asked is not None and (asked.call_id, asked.key) == ("t1", "t1.permission")
    other = told.hooks.hook({**body, "tool_input": {"command": "never called"}}, AT)
    assert other is not None and other.call_id is None and other.key.endswith(".permission")


def test_a_line_about_our_own_hooks_is_no_event() -> None:
    told = Told()
    own = {"type": "hook_success", "command": "http://127.0.0.1:8400/api/hooks/claude-code", "stdout": "{}"}
    assert told.line(type="attachment", uuid="a1", attachment=own) == []
    assert told.line(type="attachment", uuid="a2", attachment={**own, "command": "http://other/hooks"}) != []
