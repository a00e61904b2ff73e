"""Claude Code sessions: a transcript has one JSON object a line; transcripts of sub-agents are files beside it.

Rule 1: a session is a trace and each sub-agent a sub-trace, nested as they called each other. The transcripts of
        sub-agents are ``subagents/agent-*.jsonl`` beside the session or in ``<session>/subagents/``,
        ``agent-*.jsonl`` beside it, or lines marked ``isSidechain`` in the session itself.
Rule 2: trace ids come from the ids of the session, its calls and its sub-agents, so a session that has grown goes on in
        the traces that are there. A file's session is the one in its name, else that of its last line. Lines of another
        session stand in a fork, which begins with a copy: they are shown, and count in that session's own trace.
Rule 3: a directory stands for all sessions in it.

The file claude_lines.py turns the lines into events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .claude_lines import CONSTANT, Session, Transcript, as_id, task_in
from .reading import BadJson, digest, lines, load, name_of, time_of
from .steps import ImportFault, Step
from .traces import TraceWriter, drain


@dataclass
class Overview:
    """Facts of a transcript that its import needs before the first line."""

    task: str = ""  # the user's first question
    constant: dict[str, Any] = field(default_factory=dict)  # values that most lines repeat, such as cwd
    links: dict[str, str] = field(default_factory=dict)  # id of the call that began a sub-agent → the agent's id
    session_ids: set[str] = field(default_factory=set)
    last_session_id: str | None = None
    sidechain: bool | None = None  # the file is a sub-agent's, by its first line
    began_at: str | None = None
    begins: str | None = None  # the first line's uuid


def sessions(directory: Path) -> list[Path]:
    """The transcripts of the sessions in ``directory``, by name, without those of sub-agents."""
    return sorted(p for p in directory.glob("*.jsonl") if p.is_file() and not p.name.startswith("agent-"))


def read(path: Path) -> Iterator[Step]:
    """The steps of a session, or of all sessions in a directory."""
    if path.is_dir():
        for session in sessions(path):
            yield from _read_session(session, session.name)
    else:
        yield from _read_session(path, None)


def _read_session(path: Path, name: str | None) -> Iterator[Step]:
    seen = overview(path)
    alone = path.name.startswith("agent-")
    own = path.stem if path.stem in seen.session_ids else seen.last_session_id
    seen.constant |= {"sessionId": own} if own else {}
    agents = {} if alone else _agent_files(path, {own} if own else set())
    views = {agent_id: overview(file) for agent_id, file in agents.items()}
    for view in views.values():
        seen.links.update(view.links)
    out: list[Step] = []
    session = Session(
        constant=seen.constant,
        links=seen.links,
        files={agent_id: _numbered(file, f"{file.parent.name}/{file.name}") for agent_id, file in agents.items()},
        tasks={agent_id: view.task for agent_id, view in views.items()},
        session_id=own,
        trace_id=f"cc-{as_id(own) if own else digest([path, *agents.values()])}" + (f"-{path.stem}" if alone else ""),
    )
    trace = TraceWriter(out, session.trace_id, grows=own is not None)
    metadata: dict[str, Any] = {"format": "claude-code", "session": seen.constant}
    metadata |= {"begins": seen.begins} if seen.begins else {}
    if copied := sorted(seen.session_ids - {own}):
        metadata["forked_from"] = [f"cc-{as_id(one)}" for one in copied]
    trace.create(seen.task, agent_type="claude-code", metadata=metadata, at=seen.began_at)
    transcript = Transcript(session, trace, name, sidechain=bool(seen.sidechain), at=seen.began_at)
    for number, row in _rows(path):
        transcript.line(number, row)
        yield from drain(out)
    transcript.adopt_unclaimed()
    transcript.finish()
    yield from drain(out)


def _numbered(path: Path, name: str) -> tuple[str, Iterator[tuple[int, Any]]]:
    return name, _rows(path)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The number of each line with its object, or with an ImportFault."""
    for number, line in lines(path):
        try:
            row = load(line)
        except BadJson as error:
            row = ImportFault(error.message, number)
        yield number, row if isinstance(row, (dict, ImportFault)) else ImportFault("a line is a JSON object", number)


def overview(path: Path) -> Overview:
    """Read a transcript once for the facts that its import needs at the start."""
    seen = Overview()
    for _, row in _rows(path):
        if isinstance(row, ImportFault):
            continue
        if row.get("type") in ("user", "assistant"):
            if seen.sidechain is None:
                seen.sidechain = row.get("isSidechain") is True
                seen.began_at = time_of(row.get("timestamp"))
                seen.begins = name_of(row.get("uuid"))
                seen.constant = {key: row[key] for key in CONSTANT if key in row}
            if not seen.task and bool(row.get("isSidechain")) == seen.sidechain:
                seen.task = task_in(row)
            _link(row, seen.links)
        if isinstance(row.get("sessionId"), str) and row["sessionId"]:
            seen.last_session_id = row["sessionId"]
            seen.session_ids.add(row["sessionId"])
    return seen


def _link(row: dict[str, Any], links: dict[str, str]) -> None:
    result, message = row.get("toolUseResult"), row.get("message")
    agent_id = result.get("agentId") if isinstance(result, dict) else None
    blocks = message.get("content") if isinstance(message, dict) else None
    if isinstance(agent_id, str) and isinstance(blocks, list):
        for block in blocks:
            if isinstance(block, dict) and isinstance(block.get("tool_use_id"), str):
                links[block["tool_use_id"]] = agent_id


def _agent_files(path: Path, session_ids: set[str]) -> dict[str, Path]:
    """The transcripts of this session's sub-agents, by agent id."""
    found: dict[str, Path] = {}
    for folder in (path.with_suffix("") / "subagents", path.parent / "subagents", path.parent):
        for file in sorted(folder.glob("agent-*.jsonl")):
            agent_id = file.stem.removeprefix("agent-")
            if agent_id not in found and file.is_file() and _belongs(file, session_ids):
                found[agent_id] = file
    return found


def _belongs(file: Path, session_ids: set[str]) -> bool:
    """Whether an agent's file belongs to one of these sessions; a file without a session id does."""
    for _, row in _rows(file):
        if not isinstance(row, ImportFault) and isinstance(row.get("sessionId"), str):
            return not session_ids or row["sessionId"] in session_ids
    return True
