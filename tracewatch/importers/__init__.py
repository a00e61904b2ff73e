"""Importers: files of foreign formats become the same few steps, whatever their format.

An importer is a generator over one file. It yields the steps of a recorder in their order: ``CreateTrace`` before the
first ``AppendEvent`` to that trace. For an unreadable part of the file it yields an ``ImportFault`` and goes on with
the rest. It does no network or log I/O: the caller sends the steps, as fast as it likes.

Rule 1: trace ids are the source's own, or a function of the file's contents, so importing a file twice changes nothing.
        Where a file may grow, its importer tells Puts, of which only what is new is written (ledger.py).
Rule 2: nothing is lost silently. Data without a place in the protocol is kept under an extra key, or named by an
        ``ImportFault``.
Rule 3: where the source has times, every event has ``occurred_at``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

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
    native,
    openai,
    openhands,
    otlp_dump,
    swe_agent,
    tapeagents,
    tau2,
    tau_bench,
)
from .detect import FORMATS, detect
from .reading import regular_file
from .steps import (
    AppendEvent,
    CreateTrace,
    ImportFault,
    KeepContent,
    NextFile,
    Put,
    RestoreEvent,
    RestoreTrace,
    Step,
    WireBody,
)

__all__ = [
    "FORMATS",
    "AppendEvent",
    "CreateTrace",
    "ImportFault",
    "KeepContent",
    "NextFile",
    "Put",
    "RestoreEvent",
    "RestoreTrace",
    "Step",
    "WireBody",
    "detect",
    "open_import",
]

_READERS: dict[str, Callable[[Path], Iterator[Step]]] = {
    "tracewatch": native.read,
    **dict.fromkeys(chat_forms.FORMS, openai.read),
    "tau-bench": tau_bench.read,
    "tapeagents": tapeagents.read,
    "claude-code": claude_code.read,
    "claude-stream": claude_stream.read,
    "codex": codex_rollouts.read,
    "codex-exec": codex_exec.read,
    "gemini-cli": gemini_cli.read,
    "tau2": tau2.read,
    "swe-agent": swe_agent.read,
    "inspect": inspect_log.read,
    "mini-swe-agent": mini_swe_agent.read,
    "openhands": openhands.read,
    "otlp": otlp_dump.read,
    "langsmith": langsmith_dump.read,
}

_FOLDERS: dict[str, Callable[[Path], list[Path]]] = {
    "claude-code": claude_code.sessions,
    "codex": codex_rollouts.rollouts,
    "gemini-cli": gemini_cli.chats,
}


def open_import(path: Path | str, format: str = "auto") -> Iterator[Step]:
    """The steps that import the file at ``path``; for ``claude-code`` it may be a directory of sessions.

    ``format`` is one of FORMATS, or "auto" to detect it by the contents. The file is read while the steps are taken.
    Raises BadRequest at once if there is nothing to read or the format is not known.
    Example: ``for step in open_import("run.ndjson"): …``.
    """
    path = Path(path)
    if format == "auto":
        format = detect(path)
    elif format not in _READERS:
        raise BadRequest(f"{format!r} is not a format; the formats are {', '.join(FORMATS)}")
    elif not _is_source(path, format):
        regular_file(path)
    return _READERS[format](path)


def _is_source(path: Path, format: str) -> bool:
    """Whether the format has such folders or archives, and this is one."""
    if path.is_dir():
        return format in _FOLDERS and bool(_FOLDERS[format](path))
    return format == "inspect" and inspect_log.is_archive(path)
