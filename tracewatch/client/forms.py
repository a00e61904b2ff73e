"""The forms in which model APIs take messages, and what a trace is told of them.

OpenAI's chat messages and Responses items, Anthropic's messages with blocks, Gemini's contents, and plain texts.

Rule: an item of another form is no message of the trace's; it stands in the request as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

ANSWERS = frozenset({"assistant", "model"})  # the roles of what a model has said
_ROLES = {"model": "assistant"}
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "local_shell_call_output", "mcp_call_output"})
_ARGUMENTS_BYTES = 4096  # of a call, shown beside its result; they stand in the answer that asked for it as well


class Saying(NamedTuple):
    """A message of the trace, made of an item. ``parts``: pointers into the item, each with one into the message."""

    role: str
    content: Any
    parts: list[tuple[str, str]]
    tool_call_id: str | None = None

    @property
    def is_result(self) -> bool:
        """Whether it is a tool's result: the content has its name and ``result``."""
        return self.parts[0][1] == "/content/result"


class ToolUse(NamedTuple):
    """A tool's call, as an answer asked for it."""

    name: str
    arguments: Any


def role_of(item: Any) -> str:
    """Who has said an item: user, assistant, system, tool and others; "" where it is not said."""
    if type(item) is not dict:
        return "user" if type(item) is str else ""
    role = item.get("role")
    if type(role) is str:
        return _ROLES.get(role, role)
    kind = item.get("type")
    if kind in _OUTPUTS:
        return "tool"
    return "assistant" if type(kind) is str and (kind.endswith("_call") or kind == "reasoning") else ""


def told_by(item: Any, calls: dict[str, ToolUse]) -> list[Saying]:
    """The messages that an item is, or holds: an item of Anthropic's or Gemini's may hold several results of tools.

    ``calls``: by their ids, as far as they are known. [] for what is no message.
    """
    if type(item) is str:
        return [Saying("user", item, [("", "/content")])]
    if type(item) is not dict:
        return []
    if item.get("type") in _OUTPUTS and "output" in item:
        return [_result(item.get("call_id"), item["output"], "/output", calls)]
    role = item.get("role")
    if type(role) is not str or not role:
        return []
    role = _ROLES.get(role, role)
    if role in ("tool", "function") and "content" in item:
        return [_result(item.get("tool_call_id"), item["content"], "/content", calls, item.get("name"))]
    for key in ("content", "parts"):
        if type(item.get(key)) is list:
            return _of_blocks(role, key, item[key], calls)
    if type(item.get("content")) is str and item["content"]:
        return [Saying(role, item["content"], [("/content", "/content")])]
    return []


def _of_blocks(role: str, key: str, blocks: list[Any], calls: dict[str, ToolUse]) -> list[Saying]:
    results: list[Saying] = []
    rest: list[tuple[int, Any]] = []
    for index, block in enumerate(blocks):
        kind = block.get("type") if type(block) is dict else None
        answer = _response(block)
        if kind == "tool_result" and "content" in block:
            results.append(_result(block.get("tool_use_id"), block["content"], f"/{key}/{index}/content", calls))
        elif answer is not None:
            name, given = answer, block[answer]
            pointer = f"/{key}/{index}/{name}/response"
            results.append(_result(given.get("id"), given["response"], pointer, calls, given.get("name")))
        else:
            rest.append((index, block))
    if not rest:
        return results
    if not results:
        only = blocks[0].get("text") if key == "parts" and len(blocks) == 1 and type(blocks[0]) is dict else None
        if type(only) is str:
            return [Saying(role, only, [("/parts/0/text", "/content")])]
        return [Saying(role, blocks, [(f"/{key}", "/content")])]
    parts = [(f"/{key}/{index}", f"/content/{place}") for place, (index, _) in enumerate(rest)]
    return [*results, Saying(role, [block for _, block in rest], parts)]


def _response(block: Any) -> str | None:
    """The key of a tool's answer in a part of Gemini's."""
    for key in ("function_response", "functionResponse"):
        if type(block) is dict and type(block.get(key)) is dict and "response" in block[key]:
            return key
    return None


def _result(call_id: Any, value: Any, pointer: str, calls: dict[str, ToolUse], name: Any = None) -> Saying:
    call_id = call_id if type(call_id) is str and call_id else None
    call = calls.get(call_id or "")
    named = name if type(name) is str and name else None
    content: dict[str, Any] = {"tool_name": call.name if call is not None else named or "unknown"}
    if call is not None and call.arguments is not None:
        content["arguments"] = call.arguments
    return Saying("tool", {**content, "result": value}, [(pointer, "/content/result")], call_id)


def calls_in(items: Iterable[Any]) -> dict[str, ToolUse]:
    """The calls of tools that are asked for in some items, by their ids."""
    found: dict[str, ToolUse] = {}
    for item in items:
        if type(item) is not dict:
            continue
        if item.get("type") in ("function_call", "custom_tool_call"):
            _note(found, item.get("call_id"), item.get("name"), item.get("arguments", item.get("input")))
        for call in item["tool_calls"] if type(item.get("tool_calls")) is list else ():
            function = call.get("function", call.get("custom")) if type(call) is dict else None
            if type(function) is dict:
                _note(found, call.get("id"), function.get("name"), function.get("arguments", function.get("input")))
        for block in item["content"] if type(item.get("content")) is list else ():
            if type(block) is dict and block.get("type") == "tool_use":
                _note(found, block.get("id"), block.get("name"), block.get("input"))
    return found


def _note(found: dict[str, ToolUse], call_id: Any, name: Any, arguments: Any) -> None:
    if type(call_id) is not str or type(name) is not str or not name:
        return
    if type(arguments) is str:
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            pass  # a text, as a tool of another kind takes it
    small = len(orjson.dumps(arguments)) <= _ARGUMENTS_BYTES
    found[call_id] = ToolUse(name, arguments if small else None)


def answer_of(given: Any) -> tuple[Any, dict[str, Any]]:
    """The content of a model's answer, and further keys of its message. ``given``: text, blocks or a whole message."""
    if type(given) is not dict:
        return given, {}
    more = {"tool_calls": given["tool_calls"]} if given.get("tool_calls") else {}
    for key in ("content", "parts", "output"):
        if key in given and ("role" in given or "type" in given or key != "content"):
            return "" if given[key] is None else given[key], more
    return given, {}
