"""What was said, in the forms of today's conventions, as messages of one form. Pure.

A message is ``{"role", "content", "tool_calls"?, "tool_call_id"?, "thinking"?}``: content is text, or a list of parts
where it is more than text; a tool call is ``{"id"?, "name", "arguments"?}``. Read are: OpenTelemetry's parts
(``gen_ai.input.messages``), its older events (``gen_ai.user.message``, as strands sends them), OpenInference's flat
attributes (``llm.input_messages.0.message.role``), the chat messages of OpenAI, Anthropic and Vercel's AI SDK, the
serialised messages of LangChain, and the input items of OpenAI's Responses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson

ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "model": "assistant", "function": "tool"}
CLASSES = {"HumanMessage": "human", "AIMessage": "ai", "SystemMessage": "system", "ToolMessage": "tool",
           "FunctionMessage": "function"}  # fmt: skip
_FLAT = re.compile(r"(\d+)\.message\.(.+)")
_FLAT_CALL = re.compile(r"tool_calls\.(\d+)\.tool_call\.(id|function\.name|function\.arguments)")
_FLAT_PART = re.compile(r"contents\.(\d+)\.message_content\.(type|text|image\.image\.url)")
MOST_FLAT = 10_000  # the highest index of a flattened message that is taken

Message = dict[str, Any]


def parsed(value: Any) -> Any:
    """Text that is a JSON object, array or string as that value; anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def messages(value: Any) -> list[Message] | None:
    """The messages in a value of one of the known forms, or in its text; None where there is none."""
    value = parsed(value)
    if isinstance(value, dict):
        for key in ("messages", "input", "contents"):
            if isinstance(value.get(key), list):
                return messages(value[key])
        value = [value] if "role" in value or "type" in value else None
    if not isinstance(value, list):
        return None
    if value and all(isinstance(one, list) for one in value) and not _is_pair(value[0]):
        return messages(value[0])  # LangChain: a list for each of several prompts
    found: list[Message] = []
    for one in value:
        found += _message(one)
    return found or None


def _is_pair(one: list[Any]) -> bool:
    return len(one) == 2 and all(isinstance(part, str) for part in one)


def _message(raw: Any) -> list[Message]:
    if isinstance(raw, list) and _is_pair(raw):
        return [{"role": ROLES.get(raw[0], raw[0]), "content": raw[1]}]
    if not isinstance(raw, dict):
        return []
    if isinstance(raw.get("kwargs"), dict) and raw.get("type") == "constructor":  # LangChain's serialised form
        return _message(_constructed(raw))
    if isinstance(raw.get("data"), dict) and "content" in raw["data"]:
        return _message({"type": raw.get("type"), **raw["data"]})
    kind = raw.get("type")
    if kind in ("function_call", "function_call_output", "reasoning") and "role" not in raw:  # OpenAI's Responses
        return _response_item(raw, kind)
    role = str(raw.get("role") or kind or "user")
    message: Message = {"role": ROLES.get(role, role), "content": ""}
    parts = raw.get("parts") if isinstance(raw.get("parts"), list) else raw.get("content")
    found = _with_parts(message, parts)
    for call in _list(raw.get("tool_calls")):
        _add_call(message, _call(call))
    call_id = raw.get("tool_call_id") or raw.get("toolCallId") or (raw.get("id") if role == "tool" else None)
    if message["role"] == "tool" and isinstance(call_id, str):
        message.setdefault("tool_call_id", call_id)
    return found


def _constructed(raw: dict[str, Any]) -> dict[str, Any]:
    """What LangChain's serialised message was made of; the one of JavaScript has its kind in its class only."""
    kwargs: dict[str, Any] = raw["kwargs"]
    name = raw["id"][-1] if isinstance(raw.get("id"), list) and raw["id"] else None
    kind = CLASSES.get(name.removesuffix("Chunk")) if isinstance(name, str) else None
    said = {"type": kind, **kwargs} if kind else kwargs
    more = kwargs.get("additional_kwargs")
    if not kwargs.get("tool_calls") and isinstance(more, dict) and more.get("tool_calls"):
        said = {**said, "tool_calls": more["tool_calls"]}
    return said


def _response_item(raw: dict[str, Any], kind: str) -> list[Message]:
    if kind == "function_call":
        call = {"id": raw.get("call_id"), "name": raw.get("name"), "arguments": parsed(raw.get("arguments"))}
        return [{"role": "assistant", "content": "", "tool_calls": [call]}]
    if kind == "function_call_output":
        return [{"role": "tool", "content": raw.get("output"), "tool_call_id": str(raw.get("call_id"))}]
    return []


def _with_parts(message: Message, parts: Any) -> list[Message]:
    """The message with its parts, and a message of its own for each result of a tool among them."""
    parts = parsed(parts) if isinstance(parts, str) and parts[:2] in ("[{", "[]") else parts
    if not isinstance(parts, list):
        message["content"] = "" if parts is None else parts
        return [message]
    texts: list[str] = []
    others: list[Any] = []
    results: list[Message] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            _part(message, part, texts, others, results)
    text = "\n".join(texts)
    if others:
        message["content"] = [*([{"type": "text", "text": text}] if text else []), *others]
    else:
        message["content"] = text
    empty = not text and not others and not message.get("tool_calls") and not message.get("thinking")
    return results if results and empty else [message, *results]


def _part(message: Message, part: dict[str, Any], texts: list[str], others: list[Any], results: list[Message]) -> None:
    kind = str(part.get("type") or next(iter(part), ""))
    if kind in ("text", "input_text", "output_text"):
        texts.append(str(part.get("text") if part.get("text") is not None else part.get("content") or ""))
    elif kind in ("reasoning", "thinking", "reasoningContent"):
        said = part.get("content") or part.get("thinking") or part.get("text") or part.get("reasoning")
        if isinstance(said, str):
            message["thinking"] = message.get("thinking", "") + said
    elif kind in ("tool_call", "tool_use", "tool-call", "toolUse", "function_call"):
        _add_call(message, _call(part.get("toolUse") or part))
    elif kind in ("tool_call_response", "tool_result", "tool-result", "toolResult", "function_response"):
        results.append(_result(part.get("toolResult") or part))
    else:
        others.append(part)


def _result(part: dict[str, Any]) -> Message:
    call_id = next((part[key] for key in ("id", "tool_use_id", "toolCallId", "toolUseId") if part.get(key)), "")
    names = ("response", "result", "content", "output")
    content = next((part[key] for key in names if part.get(key) is not None), "")
    return {"role": "tool", "content": text_of(content), "tool_call_id": str(call_id)}


def _add_call(message: Message, call: dict[str, Any]) -> None:
    calls = message.setdefault("tool_calls", [])
    if not any(call.get("id") and call["id"] == one.get("id") for one in calls):
        calls.append(call)


def _call(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        return {"name": str(raw)}
    function = raw["function"] if isinstance(raw.get("function"), dict) else {}
    names = ("id", "toolCallId", "toolUseId", "call_id")
    call_id = next((raw[key] for key in names if isinstance(raw.get(key), str)), None)
    given = ("arguments", "input", "args")
    arguments = next((one[key] for one in (raw, function) for key in given if one.get(key) is not None), None)
    name = raw.get("name") or function.get("name") or raw.get("toolName") or "tool"
    return {**({"id": call_id} if call_id else {}), "name": str(name), "arguments": parsed(arguments)}


def _list(value: Any) -> list[Any]:
    value = parsed(value)
    return value if isinstance(value, list) else []


def text_of(content: Any) -> Any:
    """The text of a content, where it is nothing but text: also of ``[{"text": …}]``."""
    content = parsed(content) if isinstance(content, str) and content[:2] == "[{" else content
    if isinstance(content, list) and content:
        found = [one.get("text") if isinstance(one, dict) and len(one) <= 2 else one for one in content]
        texts = [one for one in found if isinstance(one, str)]
        if len(texts) == len(found):
            return "\n".join(texts)
    return content


def flattened(attributes: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    """The objects of a list that OpenInference has flattened: ``<prefix>0.<name>``, by their index."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in attributes.items():
        index, dot, name = key[len(prefix) :].partition(".") if key.startswith(prefix) else ("", "", "")
        if dot and index.isascii() and index.isdigit() and len(index) <= 5 and int(index) <= MOST_FLAT:
            found.setdefault(int(index), {})[name] = value
    return [one for _, one in sorted(found.items())]


def flattened_messages(attributes: dict[str, Any], prefix: str) -> list[Message] | None:
    """OpenInference's flattened messages; ``prefix`` is such as ``llm.input_messages.``."""
    raw: dict[int, dict[str, Any]] = {}
    for key, value in attributes.items():
        match = _FLAT.fullmatch(key[len(prefix) :]) if key.startswith(prefix) else None
        if match is None or len(match[1]) > 5 or int(match[1]) > MOST_FLAT:
            continue
        _flat(raw.setdefault(int(match[1]), {}), match[2], value)
    if not raw:
        return None
    found: list[Message] = []
    for _, one in sorted(raw.items()):
        calls = [_call(call) for _, call in sorted(one.pop("calls", {}).items())]
        parts = [part for _, part in sorted(one.pop("parts", {}).items())]
        if parts and not one.get("content"):
            one["content"] = parts
        found += _message({**one, "tool_calls": calls})
    return found


def _flat(message: dict[str, Any], name: str, value: Any) -> None:
    call, part = _FLAT_CALL.fullmatch(name), _FLAT_PART.fullmatch(name)
    if call is not None:
        calls = message.setdefault("calls", {}).setdefault(call[1], {})
        calls[call[2].removeprefix("function.")] = value
    elif part is not None:
        message.setdefault("parts", {}).setdefault(part[1], {})[part[2]] = value
    elif name in ("role", "content", "tool_call_id"):
        message[name] = value
    elif name in ("function_call_name", "function_call_arguments_json"):  # from before there were several calls
        call_part = "name" if name == "function_call_name" else "arguments"
        message.setdefault("calls", {}).setdefault("0", {})[call_part] = value


def answer(found: Iterable[Message] | None) -> Message:
    """What a model answered, of several choices or messages, as one message: the text, thinking and calls together."""
    whole: Message = {}
    for message in found or ():
        if message.get("role") not in ("assistant", "user"):
            continue
        content = message.get("content")
        if content:
            both = [whole["content"], content] if whole.get("content") else [content]
            whole["content"] = "\n".join(both) if all(isinstance(one, str) for one in both) else content
        if message.get("thinking"):
            whole["thinking"] = whole.get("thinking", "") + message["thinking"]
        for call in message.get("tool_calls") or ():
            _add_call(whole, call)
    return whole


def last_user_text(found: Iterable[Message] | None) -> str | None:
    """The last thing a user said, as text."""
    texts = [one["content"] for one in found or () if one.get("role") == "user" and isinstance(one.get("content"), str)]
    return next((text for text in reversed(texts) if text.strip()), None)
