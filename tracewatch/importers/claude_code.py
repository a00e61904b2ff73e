"""Claude Code's files: a transcript has one JSON object a line; transcripts of sub-agents are files beside it.

Rule 1: the transcripts of sub-agents are ``agent-*.jsonl`` in ``<session>/subagents/`` or below it, in ``subagents/``
        beside the session or beside the session itself, or lines marked ``isSidechain`` in it.
Rule 2: a directory stands for all sessions in it. It may be a project's, ``projects`` of all of them or ``~/.claude``.
Rule 3: the lines of all files of a session are told in the order of their times, as the order in a file is another
        (what the API refused stands at the end of its turn). So the files are read twice, a line at a time.
Rule 4: a file's session is the one in its name, else that of its last line. A fork begins with lines of another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .claude_session import ClaudeSession
from .folder import closed, each
from .reading import BadJson, load, records
from .steps import ImportFault, Step
from .timeline import LONG, TOLD, Timeline


@dataclass
class AgentFile:
    """A transcript of one agent. ``agent_id``: None for that of the session itself."""

    path: Path
    agent_id: str | None
    name: str | None  # for faults
    run_id: str | None = None  # of the workflow that began it


def is_sub_agent(path: Path) -> bool:
    """Whether the file is a sub-agent's by its name."""
    return path.name.startswith("agent-")


def sessions(directory: Path) -> list[Path]:
    """The transcripts of the sessions in ``directory`` or, for ``~/.claude`` and its ``projects``, of all projects."""
    for folder in (directory / "projects", directory):
        if not folder.is_dir():
            continue
        here = [] if folder.name == "projects" and folder != directory else folder.glob("*.jsonl")
        found = [p for p in here if p.is_file() and not is_sub_agent(p) and p.name != "history.jsonl"]
        if not found:
            found = [p for p in folder.glob("*/*.jsonl") if p.is_file() and not is_sub_agent(p)]
            found = [p for p in found if p.parent.name != "subagents"]
        if found:
            return sorted(found)
    return []


def session_files(path: Path) -> list[AgentFile]:
    """The files of the session whose transcript is ``path``: that one first."""
    files = [AgentFile(path, None, None)]
    if is_sub_agent(path):
        return files
    known: set[str] = set()
    own = path.with_suffix("") / "subagents"
    for folder, pattern in ((own, "**/"), (path.parent / "subagents", ""), (path.parent, "")):
        for file in sorted(folder.glob(f"{pattern}agent-*.jsonl")):
            agent_id = file.stem.removeprefix("agent-")
            if agent_id in known or not file.is_file():
                continue
            known.add(agent_id)
            run_id = file.parent.name if folder == own and file.parent.parent.name == "workflows" else None
            files.append(AgentFile(file, agent_id, f"{file.parent.name}/{file.name}", run_id))
    return files


def read(path: Path) -> Iterator[Step]:
    """The steps of a session, or of all sessions in a directory."""
    if not path.is_dir():
        yield from read_session(path, None)
        return
    below = path / "projects"
    yield from closed(path, [*_folders(path), *(_folders(below) if below.is_dir() else [])])
    yield from each(path, sessions(path), read_session)


def _folders(folder: Path) -> list[Path]:
    try:
        return [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    except OSError:
        return [folder]


def read_session(path: Path, name: str | None) -> Iterator[Step]:
    """The steps of one session."""
    if name is not None and (strange := _no_transcript(path, name)) is not None:
        yield from strange
        return
    own, alone = own_session(path), path.stem if is_sub_agent(path) else None
    session, lines = ClaudeSession(own, alone=alone), Timeline()
    files: dict[int, AgentFile] = {}
    for file in session_files(path):
        is_agents = file.agent_id is not None

        def seen(row: dict[str, Any], is_agents: bool = is_agents) -> bool:
            of = row.get("sessionId")
            if is_agents and isinstance(of, str) and of not in ("", own):
                return False  # another session's
            session.sidechains |= not is_agents and row.get("isSidechain") is True
            link(row, session.links)
            return True

        number = lines.add(file.path, seen)
        if number is not None:
            files[number] = file
            if is_agents:
                session.expected.add(str(file.agent_id))
                take_meta(session, file)
    files[0].name = name
    told = 0
    for number, line, row, size in lines.rows():
        session.line(line, row, agent_id=files[number].agent_id, file=files[number].name)
        told += 1 + size // LONG
        if told > TOLD:
            told = 0
            yield from session.drain()
    session.finish()
    yield from session.drain()


def _no_transcript(path: Path, name: str) -> list[Step] | None:
    """What to say of a file in which no line is one of a transcript; of an empty one nothing. None: one is."""
    empty = True
    for _, _, row in records(path):
        if isinstance(row, dict) and "type" in row:
            return None
        empty = False
    return [] if empty else [ImportFault("no line of it is one of Claude Code's", file=name)]


def own_session(path: Path) -> str:
    """The id of the session that a file is of: as it is named, else that of its last line that has one."""
    last: str | None = None
    for _, _, row in records(path):
        if isinstance(row, dict) and isinstance(row.get("sessionId"), str) and row["sessionId"]:
            last = str(row["sessionId"])
            if last == path.stem:
                return last
    if last is not None:
        return last
    with path.open("rb") as file:
        return hashlib.sha256(file.readline(1 << 16).strip()).hexdigest()[:16]


def take_meta(session: ClaudeSession, file: AgentFile) -> None:
    """Tell the session what is known of an agent beside its lines."""
    assert file.agent_id is not None
    if file.run_id is not None:
        session.workflow(file.agent_id, file.run_id)
    try:
        meta = load(file.path.with_suffix(".meta.json").read_bytes())
    except (OSError, BadJson):
        return
    if isinstance(meta, dict):
        session.meta(file.agent_id, meta)


def link(row: dict[str, Any], links: dict[str, str]) -> None:
    """Note in ``links`` which call an agent answers, if the line says so."""
    result, message = row.get("toolUseResult"), row.get("message")
    agent_id = result.get("agentId") if isinstance(result, dict) else None
    blocks = message.get("content") if isinstance(message, dict) else None
    if isinstance(agent_id, str) and isinstance(blocks, list):
        for block in blocks:
            if isinstance(block, dict) and isinstance(block.get("tool_use_id"), str):
                links.setdefault(agent_id, block["tool_use_id"])
