"""The processes of coding agents on this machine, as far as the system shows them."""

from __future__ import annotations

import os
from pathlib import Path

_NAMES = {"claude": ("claude",), "codex": ("codex",), "gemini": ("gemini",)}


def agents_in(folder: str | None, kind: str, proc: Path = Path("/proc")) -> bool | None:
    """Whether a process of the agent works in ``folder``; None where that can't be seen.

    Only a system with ``/proc`` shows it. A process that hides its folder (another user's) may be the one.
    """
    if folder is None or not proc.is_dir():
        return None
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")[:3]
        except OSError:
            continue  # it has just ended
        if not any(name in Path(word.decode("utf-8", "replace")).name for word in words for name in _NAMES[kind]):
            continue
        try:
            if os.path.realpath(entry / "cwd") == os.path.realpath(folder):
                return True
        except OSError:
            return True
    return False
