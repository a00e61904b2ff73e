"""Hooks over HTTP: what is asked is held until it is answered here or at the terminal, and nothing is allowed else."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.server.wire import http
from tests.support import DEADLINE_S, Serving, serving
from tracewatch.ingest.hooked import followed_by

pytestmark = pytest.mark.anyio
PERMISSION = {"tool": "Bash", "call_id": "toolu_1"}
HOOKS = "/api/hooks/claude-code"
DATABASE = {
    "question": "Which database?",
    "header": "Database",
    "multiSelect": False,
    "options": [{"label": "SQLite", "description": "One file"}, {"label": "PostgreSQL", "description": "A server"}],
}
SEVERAL = {**DATABASE, "question": "Which regions?", "header": "Regions", "multiSelect": True}


async def become(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition that asks the server holds."""
    end = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {condition}"
        await asyncio.sleep(0.02)


class Session:
    """A session whose hooks a test sends."""

    def __init__(self, client: httpx.AsyncClient, session_id: str) -> None:
        self.client = client
        self.session_id = session_id
        self.trace_id = f"cc-{session_id}"
        self.at = f"/api/traces/{self.trace_id}"

    async def say(self, name: str, hold: int = 600, **fields: Any) -> Any:
        """Send one hook; what it is answered with."""
        body = {"session_id": self.session_id, "cwd": "/srv/shop", "prompt_id": "p1", "hook_event_name": name, **fields}
        answer = await self.client.post(f"{HOOKS}?hold={hold}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask(self, given: Any = None, tool: str = "Bash", call_id: str = "toolu_1", **more: Any) -> Any:
        """A tool is called and its permission asked for: the task that waits for the decision, once it is asked."""
        given = {"command": "rm -r build"} if given is None else given
        await self.say("UserPromptSubmit", prompt="Clean up")
        await self.say("PreToolUse", tool_name=tool, tool_input=given, tool_use_id=call_id)
        task = asyncio.create_task(self.say("PermissionRequest", tool_name=tool, tool_input=given, **more))
        await become(lambda: self.is_asked(f"{call_id}.permission"))
        return task

    async def is_asked(self, request_id: str, state: str = "open") -> bool:
        answer = await self.client.get(f"{self.at}/inputs/{request_id}")
        return answer.status_code == 200 and answer.json()["state"] == state

    async def state(self) -> Any:
        return (await self.client.get(self.at)).json()

    async def events(self, name: str) -> list[dict[str, Any]]:
        answer = await self.client.get(f"{self.at}/events?types={name}")
        return list(answer.json()["events"])

    async def answer(self, value: Any, request_id: str = "toolu_1.permission") -> httpx.Response:
        return await self.client.post(f"{self.at}/inputs/{request_id}", json={"value": value, "by": "ann"})


@pytest.fixture
async def session(client: httpx.AsyncClient, request: pytest.FixtureRequest) -> Session:
    return Session(client, request.node.name.replace("[", "-").replace("]", "").replace(" ", "_")[:80])


def decision(answer: Any) -> Any:
    assert answer["hookSpecificOutput"]["hookEventName"] == "PermissionRequest"
    return answer["hookSpecificOutput"]["decision"]


@pytest.mark.parametrize("value", ["allow", "deny"])
async def test_the_answer_that_is_given_here_decides(session: Session, value: str) -> None:
    task = await session.ask()
    (asked,) = (await session.state())["pending_inputs"]
    assert asked["question"] == "Allow Bash: rm -r build?"
    assert asked["options"] == ["allow", "deny"]
    assert asked["permission"]["input"] == {"command": "rm -r build"}
    assert (asked["permission"]["tool"], asked["permission"]["cwd"]) == ("Bash", "/srv/shop")
    assert (await session.state())["trace"]["status"] == "waiting"
    assert (await session.answer("yes, all")).status_code == 422
    assert not task.done()
    assert (await session.answer(value)).status_code == 200
    said = decision(await task)
    assert said["behavior"] == value
    assert ("ann" in said.get("message", "")) == (value == "deny")
    (told,) = await session.events("input_provided")
    assert (told["value"], told["by"]) == (value, "ann")


@pytest.mark.parametrize(
    ("questions", "value", "answers"),
    [
        ([DATABASE], "PostgreSQL", {"Which database?": "PostgreSQL"}),
        (
            [DATABASE, SEVERAL],
            {"Which database?": "SQLite", "Which regions?": ["SQLite", "PostgreSQL"]},
            {"Which database?": "SQLite", "Which regions?": "SQLite, PostgreSQL"},
        ),
    ],
)
async def test_a_question_is_answered_with_its_options(
    session: Session, questions: list[Any], value: Any, answers: dict[str, str]
) -> None:
    given = {"questions": questions}
    task = await session.ask(given, "AskUserQuestion")
    assert (await session.answer("Oracle")).status_code == 422
    assert (await session.answer(value)).status_code == 200
    assert decision(await task) == {"behavior": "allow", "updatedInput": {**given, "answers": answers}}


async def test_what_the_terminal_allows_closes_the_question(session: Session) -> None:
    task = await session.ask()
    await session.say("PostToolUse", tool_name="Bash", tool_use_id="toolu_1", tool_response={"stdout": "done"})
    assert await task == {}
    (told,) = await session.events("input_provided")
    assert told["by"] == "terminal"
    assert (await session.answer("allow")).status_code == 409
    assert (await session.state())["pending_inputs"] == []


async def test_what_the_terminal_refuses_ends_the_connection_and_the_turn(session: Session) -> None:
    task = await session.ask()
    task.cancel()
    await become(lambda: session.is_asked("toolu_1.permission", "answered"))
    (told,) = await session.events("input_provided")
    assert (told["by"], told["value"]) == ("terminal", "deny")
    await until_status(session, "idle")


async def until_status(session: Session, status: str) -> None:
    async def is_so() -> bool:
        return bool((await session.state())["trace"]["status"] == status)

    await become(is_so)


async def test_nobody_answers_and_the_terminal_goes_on_asking(session: Session) -> None:
    await session.say("UserPromptSubmit", prompt="Clean up")
    await session.say("PreToolUse", tool_name="Bash", tool_input={"command": "make"}, tool_use_id="toolu_1")
    told = await session.say("PermissionRequest", hold=1, tool_name="Bash", tool_input={"command": "make"})
    assert told == {}
    (asked,) = (await session.state())["pending_inputs"]
    assert (asked["request_id"], asked["answerable"]) == ("toolu_1.permission.terminal", "terminal")
    assert (await session.answer("allow", asked["request_id"])).status_code == 409
    assert (await session.answer("allow")).status_code == 410
    await session.say("PostToolUse", tool_name="Bash", tool_use_id="toolu_1", tool_response={"stdout": "done"})
    assert (await session.state())["pending_inputs"] == []


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("Write", {"file_path": "/srv/x", "content": "x" * 200_000}),
        ("AskUserQuestion", {"questions": [{"question": "What?", "options": []}]}),
        ("AskUserQuestion", {"questions": "no list"}),
    ],
)
async def test_what_can_not_be_shown_whole_is_for_the_terminal(session: Session, tool: str, given: Any) -> None:
    await session.say("PreToolUse", tool_name=tool, tool_input=given, tool_use_id="toolu_1")
    assert await session.say("PermissionRequest", tool_name=tool, tool_input=given) == {}
    (asked,) = (await session.state())["pending_inputs"]
    assert asked["answerable"] == "terminal"
    await session.say("Stop", last_assistant_message="Well.")
    assert (await session.state())["pending_inputs"] == []


async def test_a_server_that_stops_leaves_its_questions_to_the_terminal(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        task = await Session(client, "s").ask()
        server.services.hub.send_away(100)
        assert await task == {}
        (asked,) = (await Session(client, "s").state())["pending_inputs"]
        assert asked["answerable"] == "terminal"


async def test_what_a_killed_server_held_is_not_answered_by_the_next_one(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        session = Session(client, "s")
        await session.say("UserPromptSubmit", prompt="Clean up")
        dead = f"{socket.gethostname()}/{os.getpid()}/another"
        asked = {"event": "input_requested", "question": "Allow Bash: x?", "options": ["allow", "deny"]}
        event = {**asked, "request_id": "toolu_1.permission", "held_by": dead, "permission": PERMISSION}
        await server.services.log.append("cc-s", [event])
    async with serving(tmp_path / "log.db") as server, http(server) as client:
        session = Session(client, "s")
        (left,) = (await session.state())["pending_inputs"]
        assert (left["answerable"], left["permission"]) == ("terminal", PERMISSION)
        assert (await session.answer("allow")).status_code == 409
        await session.say("PostToolUse", tool_name="Bash", tool_use_id="toolu_1", tool_response={"stdout": ""})
        assert (await session.state())["pending_inputs"] == []
        last = (await session.events("input_provided"))[-1]
        assert (last["by"], last["value"]) == ("terminal", "allow")


async def test_answers_need_the_scope_control_and_hooks_the_scope_write(tmp_path: Path) -> None:
    async with serving(tmp_path / "log.db") as server:
        tokens = {scope: await server.services.log.tokens.create([scope]) for scope in ("read", "write", "control")}
        async with http(server) as client:
            client.headers["authorization"] = f"Bearer {tokens['write']}"
            session = Session(client, "s")
            body = {"session_id": "s", "hook_event_name": "UserPromptSubmit", "prompt": "Hi"}
            refused = await client.post(HOOKS, json=body, headers={"authorization": f"Bearer {tokens['control']}"})
            assert refused.status_code == 403
            await session.say("PreToolUse", tool_name="Bash", tool_input={"command": "x"}, tool_use_id="toolu_1")
            asking = session.say("PermissionRequest", tool_name="Bash", tool_input={"command": "x"})
            task = asyncio.create_task(asking)
            await become(lambda: session.is_asked("toolu_1.permission"))
            assert (await session.answer("allow")).status_code == 403
            assert not task.done()
            client.headers["authorization"] = f"Bearer {tokens['control']}"
            assert (await session.answer("allow")).status_code == 200
            assert decision(await task)["behavior"] == "allow"


HOSTILE: list[Any] = [
    *({}, {"session_id": 7}, {"session_id": ""}, {"session_id": "x" * 300}, [], "text", 7, None),
]


@pytest.mark.parametrize("body", HOSTILE)
async def test_what_is_no_hook_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    answer = await client.post(HOOKS, content=orjson.dumps(body))
    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    assert (await client.post("/api/hooks/other", json={"session_id": "s"})).status_code == 404


NAMES = (
    *("UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "MessageDisplay"),
    *("SubagentStart", "SubagentStop", "Stop", "StopFailure", "SessionEnd", "Notification", "", None, {"a": 1}),
)
ODD: list[Any] = [None, 7, "x", [1], {"a": [None]}, "\x00\ud800", True]


@pytest.mark.parametrize("name", NAMES)
async def test_hooks_of_any_form_are_taken(server: Serving, client: httpx.AsyncClient, name: Any) -> None:
    keys = ("prompt", "prompt_id", "tool_name", "tool_input", "tool_use_id", "tool_response", "error", "tool_calls")
    more = (
        "agent_id",
        "agent_type",
        "message_id",
        "index",
        "delta",
        "final",
        "last_assistant_message",
        "reason",
        "cwd",
    )
    for odd in ODD:
        body = {"session_id": f"odd-{name}", "hook_event_name": name, **dict.fromkeys(keys + more, odd)}
        answer = await client.post(HOOKS, content=dumps(body))
        assert answer.status_code in (200, 400), answer.text
    assert not {what for _, what in server.services.ingester.counts.seen} & {"failed"}


def dumps(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:
        return b'{"session_id": "half", "hook_event_name": "UserPromptSubmit", "prompt": "\\ud800"}'


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "claude"))
    (tmp_path / "claude" / "projects" / "p").mkdir(parents=True)
    yield tmp_path / "claude" / "projects" / "p"


def line(**row: Any) -> bytes:
    return orjson.dumps({"sessionId": "s", "timestamp": "2026-11-30T05:00:00Z", "uuid": "u1", **row}) + b"\n"


async def test_the_transcript_of_a_session_on_this_machine_is_read(
    tmp_path: Path, home: Path, client: httpx.AsyncClient
) -> None:
    path = home / "s.jsonl"
    path.write_bytes(line(type="user", promptId="p1", message={"role": "user", "content": "Clean up"}))
    session = Session(client, "s")
    await session.say("UserPromptSubmit", prompt="Clean up", transcript_path=str(path))
    usage = {"input_tokens": 100, "output_tokens": 20}
    said = {"id": "msg_1", "role": "assistant", "model": "claude-x", "content": [{"type": "text", "text": "Done."}]}
    with path.open("ab") as file:
        file.write(line(type="assistant", uuid="u2", message={**said, "stop_reason": "end_turn", "usage": usage}))

    async def told() -> bool:
        return bool((await session.state())["trace"]["total_tokens"] == 120)

    await become(told)
    await session.say("Stop", last_assistant_message="Done.", transcript_path=str(path))
    await until_status(session, "idle")
    messages = (await client.get(f"{session.at}/messages")).json()["messages"]
    assert [(one["role"], one["content"]) for one in messages] == [("user", "Clean up"), ("assistant", "Done.")]


@pytest.mark.parametrize("kind", ["elsewhere", "another session's", "a link that leads elsewhere"])
async def test_no_other_file_is_read(tmp_path: Path, home: Path, client: httpx.AsyncClient, kind: str) -> None:
    secret = line(
        type="assistant", message={"id": "m", "role": "assistant", "content": [{"type": "text", "text": "a"}]}
    )
    elsewhere = tmp_path / "elsewhere.jsonl"
    name = f"file-{kind.replace(' ', '-')}"
    path = {"elsewhere": elsewhere, "another session's": home / "other.jsonl"}.get(kind, home / f"{name}.jsonl")
    elsewhere.write_bytes(secret)
    if kind.startswith("a link"):
        path.symlink_to(elsewhere)
    else:
        path.write_bytes(secret)
    body = {"session_id": name, "hook_event_name": "UserPromptSubmit", "prompt": "Hi", "transcript_path": str(path)}
    assert (await client.post(HOOKS, json=body)).status_code == 200
    messages = (await client.get(f"/api/traces/cc-{name}/messages".replace("'", "_"))).json()["messages"]
    assert [one["content"] for one in messages] == ["Hi"]
    assert followed_by("claude-code", name, body) is None
