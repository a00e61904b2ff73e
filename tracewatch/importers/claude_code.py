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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..model.times import parse_time
from .claude_session import ClaudeSession
from .reading import BadJson, load, load_mended, records, time_of
from .steps import ImportFault, Step

_TOLD = 256  # steps at a time


@dataclass
class AgentFile:
    """A transcript of one agent. ``agent_id``: None for that of the session itself."""

    path: Path
    agent_id: str | None
    name: str | None  # for faults
    run_id: str | None = None  # of the workflow that began it


@dataclass
class _Index:
    """Where the lines of a session are, and what its import needs before the first of them."""

    main: Path
    places: list[tuple[float, int, int, int]] = field(default_factory=list)  # time, file, place in it, line's number
    links: dict[str, str] = field(default_factory=dict)  # agent id → id of its call
    sidechains: bool = False  # lines of sub-agents are in the session's own file
    sessions: dict[str, int] = field(default_factory=dict)  # their lines; the session of the last line stands last


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
    for session in sessions(path):
        yield from read_session(session, str(session.relative_to(path)))


def read_session(path: Path, name: str | None) -> Iterator[Step]:
    """The steps of one session."""
    files = session_files(path)
    files[0].name = name
    index = _Index(path)
    for number, file in enumerate(files):
        _look(file, number, index)
    session = ClaudeSession(own_session(path, index.sessions), alone=path.stem if is_sub_agent(path) else None)
    session.links.update(index.links)
    session.sidechains = index.sidechains
    for number in {place[1] for place in index.places if files[place[1]].agent_id is not None}:
        session.expected.add(str(files[number].agent_id))
        take_meta(session, files[number])
    for told, (number, row, file) in enumerate(_in_order(files, index), 1):
        session.line(number, row, agent_id=file.agent_id, file=file.name)
        if told % _TOLD == 0:
            yield from session.drain()
    session.finish()
    yield from session.drain()


def own_session(path: Path, seen: dict[str, int]) -> str:
    """The id of the session that a file is of: as it is named, else that of its last line that has one."""
    if path.stem in seen:
        return path.stem
    return list(seen)[-1] if seen else _first_line_digest(path)


def _first_line_digest(path: Path) -> str:
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


def _look(file: AgentFile, number: int, index: _Index) -> None:
    """Put a file's lines into the index; none of a sub-agent's of another session."""
    own = own_session(index.main, index.sessions) if index.sessions else None
    last: float | None = None
    early: list[tuple[int, int]] = []  # lines before the first one with a time
    places: list[tuple[float, int, int, int]] = []
    for line, place, row in records(file.path):
        given = row if isinstance(row, dict) else {}
        session_id = given.get("sessionId")
        if isinstance(session_id, str) and session_id:
            if file.agent_id is None:
                index.sessions[session_id] = index.sessions.pop(session_id, 0) + 1
            elif session_id != own and own is not None:
                return
        at = time_of(given.get("timestamp"))
        last = parse_time(at) if at else last
        if last is None:
            early.append((place, line))
        elif not places or places[-1][2] != place:
            places.append((last, number, place, line))
        index.sidechains |= file.agent_id is None and given.get("isSidechain") is True
        _link(given, index.links)
    first = places[0][0] if places else float("-inf")
    index.places += [(first, number, *one) for one in dict.fromkeys(early)]
    index.places += places


def _link(row: dict[str, Any], links: dict[str, str]) -> None:
    result, message = row.get("toolUseResult"), row.get("message")
    agent_id = result.get("agentId") if isinstance(result, dict) else None
    blocks = message.get("content") if isinstance(message, dict) else None
    if isinstance(agent_id, str) and isinstance(blocks, list):
        for block in blocks:
            if isinstance(block, dict) and isinstance(block.get("tool_use_id"), str):
                links.setdefault(agent_id, block["tool_use_id"])


def _in_order(files: list[AgentFile], index: _Index) -> Iterator[tuple[int, Any, AgentFile]]:
    """The records of all files in the order of their times; in a file, equal times in its order."""
    index.places.sort(key=lambda entry: entry[0])
    opened: dict[int, Any] = {}
    try:
        for _, number, place, line in index.places:
            file = opened.get(number)
            if file is None:
                file = opened[number] = files[number].path.open("rb")
            if file.tell() != place:
                file.seek(place)
            yield from _of_line(file.readline(), line, files[number])
    finally:
        for file in opened.values():
            file.close()


def _of_line(line: bytes, number: int, file: AgentFile) -> Iterator[tuple[int, Any, AgentFile]]:
    try:
        values, fault = load_mended(line.strip())
    except BadJson as error:
        values, fault = [], error.message
    if fault is not None:
        yield number, ImportFault(fault, number), file
    for value in values:
        good = isinstance(value, dict)
        yield number, value if good else ImportFault("a line is a JSON object", number), file
