"""What coding agents' hooks tell is what their transcripts tell: each item once, in whatever order the two come."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.ingest.recordings import all_traces, messages_of, usage_of_all
from tests.log.helpers import open_any
from tracewatch.importers.following import FollowedClaude
from tracewatch.importers.steps import Put
from tracewatch.ingest.hooked import HookedSessions
from tracewatch.ingest.teller import Teller
from tracewatch.ingest.writing import IngestCounts
from tracewatch.log import EventLog
from tracewatch.model.times import parse_time

pytestmark = pytest.mark.anyio
RECORDINGS = {"claude-code-http-hooks": "http-hooks.jsonl", "claude-code-tasks": "hooks.jsonl"}
PARTS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
}


@pytest.fixture
def folder(shared_data: Path, request: pytest.FixtureRequest) -> Path:
    found: Path = shared_data / "wire" / request.param
    if not found.exists():
        pytest.skip(f"needs {found}, which is not here")
    return found


@pytest.fixture
async def log(tmp_path: Path) -> Any:
    opened = await open_any(f"memory:///{tmp_path / 'log.db'}")
    yield opened
    await opened.close()


def bodies(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / RECORDINGS[folder.name]).read_bytes().splitlines()
    return [orjson.loads(line)["stdin"] for line in lines]


def transcript(folder: Path, session_id: str, tmp_path: Path) -> Path:
    """The session's own files, alone."""
    (found,) = (folder / "home").glob(f"**/{session_id}.jsonl")
    copy = tmp_path / "projects" / "p" / found.name
    copy.parent.mkdir(parents=True)
    shutil.copy(found, copy)
    if found.with_suffix("").is_dir():
        shutil.copytree(found.with_suffix(""), copy.with_suffix(""))
    return copy


def timeline(folder: Path, path: Path, into: Path) -> Iterator[dict[str, Any] | None]:
    """The hooks as they came, and None whenever the files at ``path`` have grown at ``into``, by the times of both."""
    recorded = (folder / RECORDINGS[folder.name]).read_bytes().splitlines()
    told: list[tuple[float, dict[str, Any] | tuple[Path, bytes]]] = []
    for line in recorded:
        hook = orjson.loads(line)
        told.append((hook["received"], hook["stdin"]))
    for file in (path, *path.with_suffix("").glob("**/*.jsonl")):
        at = 0.0
        for line in file.read_bytes().splitlines(keepends=True):
            stamp = orjson.loads(line).get("timestamp")
            at = max(at, parse_time(stamp) if stamp else 0.0)
            told.append((at, (into / file.relative_to(path.parent), line)))
    for meta in path.with_suffix("").glob("**/*.meta.json"):
        copy = into / meta.relative_to(path.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(meta, copy)
    for _, one in sorted(told, key=lambda one: one[0]):
        if isinstance(one, dict):
            yield one
        else:
            with one[0].open("ab") as grown:
                grown.write(one[1])
            yield None


class Replay:
    """A recording that is told to a log, by a server that is killed as often as one likes."""

    def __init__(self, log: EventLog, folder: Path, tmp_path: Path) -> None:
        self.log = log
        self.bodies = bodies(folder)
        self.session_id = self.bodies[0]["session_id"]
        self.path = transcript(folder, self.session_id, tmp_path)
        self.counts = IngestCounts()
        self.restart()

    def restart(self) -> None:
        """Forget all but the log."""
        self.sessions = HookedSessions(self.log, self.counts, lease_s=120)
        self.teller = Teller(self.log, self.counts, "claude-code")
        self.followed = FollowedClaude(self.path)

    async def hook(self, body: dict[str, Any]) -> None:
        await self.sessions.take("claude-code", body, here=False)

    async def file(self, followed: FollowedClaude | None = None) -> None:
        followed = followed or self.followed
        while steps := followed.read():
            await self.teller.tell([step for step in steps if isinstance(step, Put)])
        if followed.turn_over:
            await self.teller.tell([step for step in followed.rest() if isinstance(step, Put)])

    async def done(self) -> None:
        await self.sessions.close()
        assert not {what for _, what in self.counts.seen} & {"refused", "failed"}


async def tools_of(log: EventLog) -> list[dict[str, Any]]:
    return [
        one
        for trace in await all_traces(log)
        for one in await messages_of(log, trace["trace_id"])
        if one["role"] == "tool"
    ]


async def texts_of(log: EventLog) -> Counter[tuple[str, str, str]]:
    """How often each text was said, by trace and role."""
    found: Counter[tuple[str, str, str]] = Counter()
    for trace in await all_traces(log):
        for one in await messages_of(log, trace["trace_id"]):
            if one["role"] in ("user", "assistant") and isinstance(one["content"], str) and one["content"].strip():
                found[trace["trace_id"], one["role"], one["content"].strip()] += 1
    return found


async def ids_of(log: EventLog) -> list[tuple[str, int]]:
    return [(trace["trace_id"], trace["last_event_id"]) for trace in await all_traces(log)]


def expected_tools(truth: dict[str, Any], bodies: list[dict[str, Any]]) -> list[str]:
    told = {body.get("tool_use_id") for body in bodies}
    return sorted(step["id"] for step in truth["steps"] if step["kind"] == "tool" and step["id"] in told)


HOW_HOOKS = ("as recorded", "twice", "reverse", "killed each time")


@pytest.mark.parametrize("how", HOW_HOOKS)
@pytest.mark.parametrize("folder", RECORDINGS, indirect=True)
async def test_hooks_alone_tell_of_each_tool_agent_plan_and_word_once(
    log: EventLog, folder: Path, tmp_path: Path, how: str
) -> None:
    truth = orjson.loads((folder / "truth.json").read_bytes())
    replay = Replay(log, folder, tmp_path)
    for body in reversed(replay.bodies) if how == "reverse" else replay.bodies:
        await replay.hook(body)
        if how == "twice":
            before = await ids_of(log)
            await replay.hook(body)
            if body["hook_event_name"] != "Stop":  # whose question it closes again is none
                assert await ids_of(log) == before
        if how == "killed each time":
            await replay.sessions.close()
            replay.restart()
            await replay.hook(body)
    await replay.done()
    tools = await tools_of(log)
    assert sorted(one["message_id"] for one in tools) == expected_tools(truth, replay.bodies)
    assert not [one for one in tools if one["content"]["tool_name"] == "unknown"]
    assert how == "reverse" or not [one for one in tools if one["status"] != "complete"]
    refused = {one["message_id"] for one in tools if "has been denied" in str(one["content"].get("error"))}
    failed = {one["message_id"] for one in tools if "error" in one["content"]} - refused
    assert len(failed) == truth["totals"]["tool_errors"]
    traces = await all_traces(log)
    assert len(traces) == 1 + truth["totals"]["agent_runs"]
    texts = await texts_of(log)
    assert set(texts.values()) == {1}
    said = {text for _, role, text in texts if role == "assistant"}
    displayed = {body["last_assistant_message"].strip() for body in replay.bodies if body.get("last_assistant_message")}
    assert displayed <= said
    goals = (await log.snapshot(f"cc-{replay.session_id}")).state.goals
    planned = sorted(one for one, _ in truth.get("goals", []))
    found = sorted(goal["description"] for goal in goals.values())
    assert found == planned or (how == "reverse" and set(planned) <= set(found))  # calls of agents come before the plan
    if how != "reverse":
        assert [trace["status"] for trace in traces] == ["completed"] * len(traces)
        assert {goal["status"] for goal in goals.values()} <= {"completed"}


HOW_BOTH = ("hooks first", "transcript first", "side by side", "side by side, killed", "another process follows")


@pytest.mark.parametrize("how", HOW_BOTH)
@pytest.mark.parametrize("folder", RECORDINGS, indirect=True)
async def test_hooks_and_the_transcript_of_a_session_are_one_run(
    log: EventLog, folder: Path, tmp_path: Path, how: str
) -> None:
    truth = orjson.loads((folder / "truth.json").read_bytes())
    replay = Replay(log, folder, tmp_path)
    if how == "transcript first":
        await replay.file()
    if how in ("hooks first", "transcript first"):
        for body in replay.bodies:
            await replay.hook(body)
        await replay.file()
    else:
        grown = tmp_path / "grown"
        grown.mkdir()
        followed = FollowedClaude(grown / replay.path.name)
        for told in timeline(folder, replay.path, grown):
            if how.endswith("killed"):
                await replay.sessions.close()
                replay.restart()
                followed = FollowedClaude(grown / replay.path.name)
            if told is not None:
                await replay.hook(told)
                continue
            if how.startswith("another"):
                replay.teller = Teller(log, replay.counts, "claude-code")
            await replay.file(followed)
    before = await ids_of(log)
    replay.restart()
    for body in replay.bodies:
        await replay.hook(body)
    await replay.file()
    assert [one for one, _ in await ids_of(log)] == [one for one, _ in before]
    await replay.done()
    tools = await tools_of(log)
    assert sorted(one["message_id"] for one in tools) == expected_tools(truth, replay.bodies)
    texts = await texts_of(log)
    assert {which: number for which, number in texts.items() if number > 1} == {}
    assert len(await all_traces(log)) == 1 + truth["totals"]["agent_runs"]
    usage = await usage_of_all(log)
    if folder.name == "claude-code-tasks":  # the other one's truth counts a second session
        tokens = truth["totals"]["tokens"]
        tokens = {**tokens, "input": tokens["input"] + tokens["cache_read"] + tokens["cache_write"]}
        assert {part: usage.get(ours, 0) for part, ours in PARTS.items()} == {part: tokens[part] for part in PARTS}
    else:
        assert usage["output_tokens"] == 60


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("how", ["as recorded", "twice"])
async def test_codex_hooks_are_its_threads(
    log: EventLog, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, *, followed: bool
) -> None:
    folder = shared_data / "wire" / "codex-exec"
    truth = orjson.loads((folder / "truth.json").read_bytes())
    if followed:
        shutil.copytree(folder / "sessions", tmp_path / "codex" / "sessions")
        monkeypatch.setenv("CODEX_HOME", str(tmp_path / "codex"))
    sessions = HookedSessions(log, counts := IngestCounts(), lease_s=120)
    for line in (folder / "hooks.jsonl").read_bytes().splitlines():
        body = orjson.loads(line.replace(b"/home/u/cx/home/.codex", str(tmp_path / "codex").encode()))["stdin"]
        for _ in range(2 if how == "twice" else 1):
            await sessions.take("codex", body, here=followed)
    root = "cx-01a22ad2-20a8-7be2-88be-4d21c45ed42e"

    async def is_read() -> bool:
        traces = await all_traces(log)
        usage = await usage_of_all(log)
        whole = not followed or usage.get("output_tokens") == truth["totals"]["tokens"]["output"]
        return whole and len(traces) == 2 and all(one["status"] == "completed" for one in traces)

    end = time.monotonic() + 30
    while not await is_read():
        assert time.monotonic() < end, [(one["trace_id"], one["status"]) for one in await all_traces(log)]
        await asyncio.sleep(0.02)
    await sessions.close()
    assert not {what for _, what in counts.seen} & {"refused", "failed"}
    tools = await tools_of(log)
    assert sorted(one["tool_call_id"] for one in tools) == sorted(
        step["id"] for step in truth["steps"] if step["kind"] == "tool"
    )
    assert max((await texts_of(log)).values()) == 1
    (sub,) = [one for one in await all_traces(log) if one["parent_trace_id"]]
    assert sub["parent_trace_id"] == root
