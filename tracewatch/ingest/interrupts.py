"""LangGraph's interrupts, as they stand in the error of a run: Python's ``repr``, or JavaScript's JSON. Pure.

    GraphInterrupt((Interrupt(value={'question': 'Deploy?', 'options': ['yes', 'no']}, id='cfc35…'),))

Rule: what can't be read is a question all the same, with the text as it is.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

import orjson

from .digests import digest

PYTHON = ("GraphInterrupt(", "NodeInterrupt(")
BUBBLES = ("ParentCommand(", "GraphBubbleUp(", "GraphDelegate(")  # how LangGraph goes elsewhere: no errors
MOST_CHARS = 200_000  # of an error that is parsed
MOST_QUESTION = 4000  # characters
_JAVASCRIPT = re.compile(r"(?:\A|\n)(?:Graph|Node)Interrupt: ")
_WORDS = ("question", "query", "message", "prompt", "text", "description", "title")


@dataclass(frozen=True, slots=True)
class Interrupt:
    """One interrupt: its id, what it asks, and the value that the graph gave it."""

    key: str
    text: str
    options: list[Any] | None
    value: Any
    is_more: bool  # the value says more than the text and the options


def bubbled(error: str) -> bool:
    """Whether this is no error, but how LangGraph leaves a graph for another."""
    return error.startswith(BUBBLES)


def questions(error: str) -> list[Interrupt]:
    """The questions in the error of a run; none for any other error."""
    if error.startswith(PYTHON):
        return [_question(one) for one in _python(error.partition("Traceback (most recent call last)")[0].strip())]
    if _JAVASCRIPT.search(error[:MOST_CHARS]):
        return [_question(one) for one in _javascript(error)]
    return []


def _python(text: str) -> list[dict[str, Any]]:
    """The interrupts of ``repr(GraphInterrupt(…))``, each as its arguments."""
    found: list[dict[str, Any]] = []
    try:
        tree = ast.parse(text[:MOST_CHARS], mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Interrupt":
                found.append({one.arg: _literal(one.value) for one in node.keywords if one.arg is not None})
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found = []
    return found or [{"value": text.partition("(")[2].removesuffix(")") or text}]


def _literal(node: ast.expr) -> Any:
    try:
        return orjson.loads(orjson.dumps(ast.literal_eval(node)))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return ast.unparse(node)


def _javascript(text: str) -> list[dict[str, Any]]:
    """The interrupts of JavaScript: the message of its error is their JSON."""
    match = _JAVASCRIPT.search(text)
    head = text[: match.start()] if match and match.start() else text[match.end() :] if match else text
    try:
        found = orjson.loads(head.partition("\n    at ")[0].strip())
    except orjson.JSONDecodeError:
        found = head.strip()
    many = found if isinstance(found, list) else [found]
    return [one if isinstance(one, dict) else {"value": one} for one in many]


def _question(raw: dict[str, Any]) -> Interrupt:
    value = raw.get("value")
    key = next((raw[name] for name in ("id", "interrupt_id") if isinstance(raw.get(name), str) and raw[name]), None)
    if key is None:
        key = f"interrupt-{digest([raw.get('ns'), value])}"
    options = value.get("options", value.get("choices")) if isinstance(value, dict) else None
    text, whole = _words(value)
    usable = options if isinstance(options, list) and 0 < len(options) <= 100 else None
    known = {"question", "options"} if usable else {"question"}
    more = not whole or (isinstance(value, dict) and not set(value) <= known)
    return Interrupt(key, text[:MOST_QUESTION] or "?", usable, value, more)


def _words(value: Any) -> tuple[str, bool]:
    """What an interrupt's value asks, and whether that is all of it."""
    if isinstance(value, str):
        return value, len(value) <= MOST_QUESTION
    if isinstance(value, list) and len(value) == 1:
        return _words(value[0])[0], False
    if isinstance(value, dict):
        for name in _WORDS:
            if isinstance(value.get(name), str) and value[name].strip():
                return value[name], len(value[name]) <= MOST_QUESTION
        for name in ("action_requests", "action_request"):  # of LangChain's human in the loop
            asked = value.get(name)
            many = asked if isinstance(asked, list) else [asked]
            names = [one.get("description") or _allow(one) for one in many if isinstance(one, dict)]
            if names:
                return "\n".join(map(str, names)), False
    return orjson.dumps(value).decode(), False


def _allow(action: dict[str, Any]) -> str:
    args = action.get("args", action.get("arguments"))
    said = orjson.dumps(args).decode() if args else ""
    return f"Allow {action.get('name') or action.get('action')}({said[:1000]})?"
