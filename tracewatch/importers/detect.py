"""The detection of a file's format by its contents.

Rule: JSONL is detected by its first lines, several of them because one may be broken; any other file by the whole
      document.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from . import (
    chat_forms,
    claude_code,
    claude_stream,
    codex_exec,
    codex_rollouts,
    gemini_cli,
    inspect_log,
    langsmith_dump,
    mini_swe_agent,
    openhands,
    otlp_dump,
    swe_agent,
    tapeagents,
    tau2,
)
from .reading import BadJson, has_lines, lines, load, regular_file, starts_with_a_value, whole

FORMATS = (
    *("tracewatch", "openai", "tau-bench", "tapeagents", "claude-code", "claude-stream", "codex", "codex-exec"),
    *("openai-responses", "anthropic", "gemini", "gemini-cli", "tau2", "swe-agent", "inspect", "openhands", "otlp"),
    *("langsmith", "mini-swe-agent"),
)
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
        if gemini_cli.chats(path):
            return "gemini-cli"
        raise BadRequest(f"{path} is a directory without Claude Code sessions (*.jsonl); {_KNOWN}")
    if path.is_file() and inspect_log.is_archive(path):
        return "inspect"
    regular_file(path)
    found = _of_lines(path) if starts_with_a_value(path) else None
    if found is None and has_lines(path):
        raise BadRequest(f"{path} has lines of JSON of a format that is not known here; {_KNOWN}")
    return found or _of_document(path)


def _of_lines(path: Path) -> str | None:
    for _, line in islice(lines(path), _LINES):
        try:
            found = None if isinstance(line, BadJson) else _of_line(load(line))
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
    if gemini_cli.is_chat(row):
        return "gemini-cli"
    if openhands.is_event(row):
        return "openhands"
    if otlp_dump.is_dump(row):
        return "otlp"
    if langsmith_dump.is_dump(row):
        return "langsmith"
    if isinstance(row.get("type"), str) and _CLAUDE_KEYS & row.keys():
        return "claude-code"
    return _of_item(row)


def _of_value(value: Any) -> str | None:
    """The format of a whole document."""
    if isinstance(value, list):
        found = next((found for item in value if isinstance(item, dict) and (found := _of_item(item))), None)
        return found if found not in (None, "openai") else _of_conversation(value) or found
    if isinstance(value, dict):
        return next((name for name, fits in _DOCUMENTS.items() if fits(value)), None) or _of_conversation(value)
    return None


_DOCUMENTS: dict[str, Callable[[Any], bool]] = {
    "tapeagents": tapeagents.is_tape,
    "gemini-cli": gemini_cli.is_chat,
    "swe-agent": swe_agent.is_traj,
    "mini-swe-agent": mini_swe_agent.is_traj,
    "inspect": inspect_log.is_log,
    "tau2": tau2.is_results,
    "openhands": openhands.is_conversation,
    "otlp": otlp_dump.is_dump,
    "langsmith": langsmith_dump.is_dump,
}


def _of_conversation(value: Any) -> str | None:
    messages = chat_forms.messages_of(value)
    return None if messages is None else chat_forms.form_of(messages)


def _of_item(item: dict[str, Any]) -> str | None:
    if claude_stream.is_stream(item):
        return "claude-stream"
    if isinstance(item.get("traj"), list) or {"task_id", "reward", "traj"} <= item.keys():
        return "tau-bench"
    if openhands.is_event(item):
        return "openhands"
    found = next((name for name, fits in _DOCUMENTS.items() if fits(item)), None)
    if found is not None:
        return found
    return _of_conversation([item]) or _of_conversation(item)


def _of_document(path: Path) -> str:
    try:
        found = _of_value(whole(path))
    except BadJson as error:
        # It may be JSONL with a broken first line
        found = _of_lines(path)
        if found is None:
            raise BadRequest(f"{path}: line {error.line}: {error.message}; {_KNOWN}", line=error.line) from error
    if found is None:
        raise BadRequest(f"{path} is JSON of a format that is not known here; {_KNOWN}")
    return found
