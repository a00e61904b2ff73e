"""What the user asked in a line of Claude Code: the user's words without those that the program put around them."""

from __future__ import annotations

import re
from typing import Any

from .reading import text_of

_WRAPPED = re.compile(
    r"<(system-reminder|ide_selection|ide_opened_file|ide_diagnostics|local-command-[a-z]+|bash-stdout|bash-stderr"
    r"|bash-input|user-memory-input|command-contents|command-message|post-tool-use-hook|user-prompt-submit-hook"
    r"|new-diagnostics|task-notification|environment_context|user_instructions|INSTRUCTIONS)(?:\s[^>]*)?>"
    r".*?(?:</\1>|\Z)",
    re.DOTALL,
)
_COMMAND = re.compile(r"<command-name>\s*(.*?)\s*</command-name>", re.DOTALL)
_ARGUMENTS = re.compile(r"<command-args>\s*(.*?)\s*</command-args>", re.DOTALL)
_INTERRUPTED = "[Request interrupted by user"


def interrupted(text: str) -> bool:
    """Whether the program says in the user's name that the user has interrupted the agent."""
    return text.startswith(_INTERRUPTED)


def asked(row: dict[str, Any]) -> str:
    """The user's words in a line; "" if there are none, or if a program wrote the line in the user's name.

    A command such as ``/release`` with words after it is asked; without words it is only ``command``.
    """
    text = _said(row)
    name, words = _COMMAND.search(text), _ARGUMENTS.search(text)
    if name is not None:
        return f"{name[1]} {words[1]}" if words is not None and words[1] else ""
    return words_in(text)


def command(row: dict[str, Any]) -> str:
    """The command without arguments that a line says, such as ``/init``; else ""."""
    name = _COMMAND.search(_said(row))
    return name[1] if name is not None else ""


def by_program(text: str) -> bool:
    """Whether all of a prompt's text is a program's, in the user's name: a reminder, what a command has printed."""
    text = text.strip()
    return bool(text) and not words_in(text) and not text.startswith(("<bash-input>", "<command-", _INTERRUPTED))


def words_in(text: str) -> str:
    """The words of a prompt that are the user's; "" if a program has written all of it."""
    if text.startswith(("Caveat:", _INTERRUPTED)):
        return ""
    return _WRAPPED.sub("", text).strip()


def _said(row: dict[str, Any]) -> str:
    message = row.get("message")
    if row.get("type") != "user" or row.get("isMeta") or row.get("isCompactSummary") or not isinstance(message, dict):
        return ""
    content = message.get("content")
    if isinstance(content, list) and any(isinstance(b, dict) and b.get("type") == "tool_result" for b in content):
        return ""
    return text_of(content).strip()
