"""Codex's files: a rollout is the JSONL file of one thread; those of its sub-agents are rollouts beside it.

Rule 1: a directory stands for all rollouts below it, such as ``~/.codex/sessions``; a file for its thread and the
        threads that it began, of which the rollouts lie in the same directory.
Rule 2: the lines of a thread and of its sub-agents are told in the order of their times.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from .codex import CodexThread
from .folder import each
from .reading import digest, records
from .steps import Step
from .timeline import LONG, TOLD, Timeline

_LOOK = 20  # lines, for the one that names the thread


def rollouts(directory: Path) -> list[Path]:
    """The rollouts below ``directory``, in the order of their names, which begin with their times."""
    return sorted(directory.glob("**/rollout-*.jsonl"), key=lambda path: path.name)


def head(path: Path) -> tuple[str, str | None]:
    """The id of a rollout's thread, and that of the thread that began it."""
    for _, _, row in islice(records(path), _LOOK):
        if isinstance(row, dict) and row.get("type") == "session_meta" and isinstance(row.get("payload"), dict):
            thread = CodexThread(str(row["payload"].get("id") or digest([path])))
            thread.line(1, row)
            return thread.thread_id, thread.parent_id
    return digest([path]), None


def read(path: Path) -> Iterator[Step]:
    """The steps of a thread with its sub-agents, or of all rollouts below a directory."""
    files = rollouts(path) if path.is_dir() else [path, *(p for p in rollouts(path.parent) if p != path)]
    heads = {file: _head_if_readable(file) for file in files}
    known = {thread_id: file for file, (thread_id, _) in heads.items()}
    begun: dict[Path, list[Path]] = {}  # file → those of its sub-agents
    roots: list[Path] = []
    for file, (_, parent_id) in heads.items():
        parent = known.get(parent_id or "")
        if parent is None or parent == file:
            roots.append(file)
        else:
            begun.setdefault(parent, []).append(file)
    if not path.is_dir():
        yield from _read(_family(path, begun), heads, None)
        return
    yield from each(path, roots, lambda root, _: _read(_family(root, begun), heads, path))


def _head_if_readable(path: Path) -> tuple[str, str | None]:
    try:
        return head(path)
    except OSError:  # which is said where the file is read
        return "", None


def _family(root: Path, begun: dict[Path, list[Path]]) -> list[Path]:
    family, waiting = [root], [root]
    while waiting:
        below = begun.get(waiting.pop(), [])
        family += below
        waiting += below
    return family


def _read(family: list[Path], heads: dict[Path, tuple[str, str | None]], folder: Path | None) -> Iterator[Step]:
    lines, threads = Timeline(), []
    for file in family:
        named = str(file.relative_to(folder)) if folder else file.name if file != family[0] else None
        if lines.add(file, lambda row: True) is not None:
            threads.append(CodexThread(heads[file][0], named))
    if folder is None and heads[family[0]][1] is not None:
        threads[0].parent_id = None  # a sub-agent's by itself is a run of its own
        threads[0].alone = True
    told = 0
    for number, line, row, size in lines.rows():
        threads[number].line(line, row)
        told += 1 + size // LONG
        if told > TOLD:
            told = 0
            yield from _drained(threads)
    yield from _drained(threads)
    for thread in reversed(threads):
        thread.finish()
    yield from _drained(threads)


def _drained(threads: list[CodexThread]) -> list[Any]:
    return [step for thread in threads for step in thread.drain()]
