"""The detection of a file's format by its contents.

Rule: JSONL is detected by its first lines, several of them because one may be broken; any other file by the whole
      document.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from . import claude_code, claude_stream, codex_exec, codex_rollouts, tapeagents
from .reading import BadJson, lines, load, regular_file, starts_with_a_value

FORMATS = ("tracewatch", "openai", "tau-bench", "tapeagents", "claude-code", "claude-stream", "codex", "codex-exec")
_KNOWN = f"the formats are {', '.join(FORMATS)}"
_LINES = 20
_CODEX_TYPES = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_CLAUDE_KEYS = frozenset({"sessionId", "uuid", "leafUuid", "messageId", "isSidechain"})


def detect(path: Path | str) -> str:
    """The name of the format of the file at ``path``, or of the directory of Claude Code sessions.

    Raises BadRequest if there is nothing to read or no format fits.
    """
    path = Path(path)
    if path.is_dir():
        if codex_rollouts.rollouts(path):
            return "codex"
        if claude_code.sessions(path):
            return "claude-code"
        raise BadRequest(f"{path} is a directory without Claude Code sessions (*.jsonl); {_KNOWN}")
    regular_file(path)
    _, first = next(lines(path), (1, b""))
    if starts_with_a_value(first):
        return _of_lines(path) or _of_document(path)
    return _of_document(path)


def _of_lines(path: Path) -> str | None:
    for _, line in islice(lines(path), _LINES):
        try:
            found = _of_line(load(line))
        except BadJson:
            continue
        if found is not None:
            return found
    return None


def _of_line(row: Any) -> str | None:
    if not isinstance(row, dict):
        return _of_value(row)
    if isinstance(row.get("trace"), dict) and "trace_id" in row["trace"]:
        return "tracewatch"
    if row.get("type") in _CODEX_TYPES and isinstance(row.get("payload"), dict):
        return "codex"
    if claude_stream.is_stream(row):
        return "claude-stream"
    if codex_exec.is_exec(row):
        return "codex-exec"
    if isinstance(row.get("type"), str) and _CLAUDE_KEYS & row.keys():
        return "claude-code"
    return _of_item(row)


def _of_value(value: Any) -> str | None:
    """The format of a whole document."""
    if isinstance(value, list):
        return next((found for item in value if isinstance(item, dict) and (found := _of_item(item))), None)
    if isinstance(value, dict):
        return (
            "tapeagents" if tapeagents.is_tape(value) else "openai" if isinstance(value.get("messages"), list) else None
        )
    return None


def _of_item(item: dict[str, Any]) -> str | None:
    if claude_stream.is_stream(item):
        return "claude-stream"
    if isinstance(item.get("traj"), list) or {"task_id", "reward", "traj"} <= item.keys():
        return "tau-bench"
    if tapeagents.is_tape(item):
        return "tapeagents"
    return "openai" if isinstance(item.get("role"), str) or isinstance(item.get("messages"), list) else None


def _of_document(path: Path) -> str:
    try:
        found = _of_value(load(path.read_bytes()))
    except BadJson as error:
        # It may be JSONL with a broken first line
        found = _of_lines(path)
        if found is None:
            raise BadRequest(f"{path}: line {error.line}: {error.message}; {_KNOWN}", line=error.line) from error
    if found is None:
        raise BadRequest(f"{path} is JSON of a format that is not known here; {_KNOWN}")
    return found
