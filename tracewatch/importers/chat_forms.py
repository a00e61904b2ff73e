"""The forms in which people keep conversations with models, each as chat messages (openai.py writes those).

Rule 1: the form is that of the conversation, found by its messages: OpenAI's chat, items of OpenAI's Responses API,
        Anthropic's Messages, Gemini's contents. Checked with small conversations written by hand, not with the APIs.
Rule 2: what has no place in a chat message stays in its content as it is, so it is shown and nothing of it is lost.
"""

from __future__ import annotations

from typing import Any

import orjson

from ..model.fit import count
from .claude_lines import usage_of
from .reading import list_of, name_of, without

FORMS = ("openai", "openai-responses", "anthropic", "gemini")
_ANSWERED = (  # calls whose output is an item of its own
    *("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call"),
)
_CALLS = (
    *_ANSWERED,
    *("web_search_call", "file_search_call", "mcp_call", "code_interpreter_call", "image_generation_call"),
)
_BLOCKS = ("tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use")
_TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text")


def messages_of(value: Any) -> list[Any] | None:
    """The messages, items or contents of a conversation; None if the value is none."""
    if isinstance(value, list):
        return value if any(isinstance(item, dict) and _is_part(item) for item in value) else None
    if not isinstance(value, dict):
        return None
    for key in ("messages", "contents"):
        if isinstance(value.get(key), list):
            return _with_system(value, value[key])
    if value.get("object") == "response" or (isinstance(value.get("output"), list) and "input" in value):
        given = value.get("input")
        asked = given if isinstance(given, list) else [{"role": "user", "content": given}] if given else []
        return [*asked, *list_of(value.get("output"))]
    given = value.get("input")
    return given if isinstance(given, list) and any(isinstance(i, dict) and _is_part(i) for i in given) else None


def _is_part(item: dict[str, Any]) -> bool:
    return isinstance(item.get("role"), str) or item.get("type") in _CALLS or str(item.get("type")).endswith("_output")


def _with_system(value: dict[str, Any], messages: list[Any]) -> list[Any]:
    """The messages with the prompt of the system before them, which some APIs have beside them."""
    system = value.get("system") or value.get("systemInstruction") or value.get("system_instruction")
    if isinstance(system, dict):
        system = system.get("parts")
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    return (
        messages if not system or first.get("role") == "system" else [{"role": "system", "content": system}, *messages]
    )


def form_of(messages: list[Any]) -> str:
    """The form of a conversation's messages, one of FORMS."""
    for item in messages:
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("parts"), list):
            return "gemini"
        if "role" not in item and isinstance(item.get("type"), str):
            return "openai-responses"
        content = item.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") in _BLOCKS:
                return "anthropic"
            if isinstance(part, dict) and part.get("type") in ("input_text", "output_text"):
                return "openai-responses"
    return "openai"


def as_chat(form: str, item: Any) -> list[Any]:
    """One message, item or content as chat messages."""
    if not isinstance(item, dict):
        return [item]
    if form == "gemini" and isinstance(item.get("parts"), list):
        return _of_gemini(item)
    if form == "openai-responses":
        return _of_responses(item)
    return _of_anthropic(item) if form == "anthropic" else [_of_openai(item)]


def _of_openai(item: dict[str, Any]) -> dict[str, Any]:
    """A chat message, with what newer models put beside its content."""
    chat = dict(item)
    calls = item.get("tool_calls")
    if isinstance(calls, list):
        chat["tool_calls"] = [_custom(call) for call in calls]
    thought = item.get("reasoning")
    if isinstance(thought, str) and thought and not item.get("reasoning_content"):
        chat["reasoning_content"] = chat.pop("reasoning")
    audio = item.get("audio")
    if not item.get("content"):
        if isinstance(item.get("refusal"), str) and item["refusal"]:
            chat |= {"content": chat.pop("refusal"), "refused": True}
        elif isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
            chat["content"] = audio["transcript"]
    content = chat.get("content")
    if isinstance(content, list) and content and all(_refusal(part) for part in content):
        chat |= {"content": "\n".join(part["refusal"] for part in content), "refused": True}
    return chat


def _refusal(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("refusal"), str)


def _custom(call: Any) -> Any:
    custom = call.get("custom") if isinstance(call, dict) else None
    if not isinstance(custom, dict):
        return call
    function = {"name": custom.get("name"), "arguments": custom.get("input")}
    return {**without(call, "custom"), "function": function}


def _call(name: Any, given: Any, call_id: Any, **more: Any) -> dict[str, Any]:
    return {"id": call_id, "function": {"name": name, "arguments": given}, **more}


def _of_responses(item: dict[str, Any]) -> list[Any]:
    kind = item["type"] if isinstance(item.get("type"), str) else "message"
    call_id = item.get("call_id") or item.get("id")
    if kind == "message":
        parts = item.get("content")
        texts = _texts(parts)
        chat = without(item, "type", "content", "status")
        return [_of_openai({**chat, "content": parts if texts is None else texts})]
    if kind == "reasoning":
        thought = "\n\n".join(filter(None, (_texts(item.get(key)) for key in ("summary", "content"))))
        return [{"role": "assistant", "content": None, "reasoning_content": thought}] if thought else []
    if kind.endswith("_output"):
        output = item.get("output")
        texts = _texts(output)
        return [{"role": "tool", "tool_call_id": call_id, "content": output if texts is None else texts}]
    if kind not in _CALLS:
        return [{"role": "assistant", "content": item}]
    given = item.get("arguments", item.get("input", item.get("action")))
    rest = without(item, "type", "id", "call_id", "name", "arguments", "input", "action", "output", "status", "error")
    name = item.get("name") or kind.removesuffix("_call")
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [_call(name, rest if given is None else given, call_id)],
    }
    result = item.get("output", item.get("results"))
    if result is None and kind in _ANSWERED:
        return [call]
    error = item.get("error")
    answer = {"role": "tool", "tool_call_id": call_id, "content": result if error is None else error}
    return [call, answer | ({} if error is None else {"is_error": True})]


def _texts(parts: Any) -> str | None:
    """The text of content parts, if they are all text."""
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list) or not all(isinstance(p, dict) and p.get("type") in _TEXTS for p in parts):
        return None
    return "\n".join(str(p.get("text", "")) for p in parts)


def _of_anthropic(item: dict[str, Any]) -> list[Any]:
    content, role = item.get("content"), item.get("role")
    if not isinstance(content, list):
        return [item]
    results: list[Any] = []
    calls: list[Any] = []
    thoughts: list[str] = []
    rest: list[Any] = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result":
            given = block.get("content")
            texts = _texts(given)
            answer = {
                "role": "tool",
                "tool_call_id": block.get("tool_use_id"),
                "content": given if texts is None else texts,
            }
            results.append(answer | ({"is_error": True} if block.get("is_error") is True else {}))
        elif kind in ("tool_use", "server_tool_use"):
            calls.append(_call(block.get("name"), block.get("input"), block.get("id")))
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            thoughts.append(block["thinking"])
        else:
            rest.append(block)
    chat = without(item, "content", "usage", "type")
    used = usage_of(item.get("usage"))
    texts = _texts(rest)
    if calls:
        chat["tool_calls"] = calls
    if thoughts:
        chat["reasoning_content"] = "\n\n".join(thoughts)
    chat |= {"role": role, "content": (texts or None) if texts is not None else rest}
    if used:
        chat["used"] = used
    return [*results, *([chat] if rest or calls or thoughts or not results else [])]


def _of_gemini(item: dict[str, Any]) -> list[Any]:
    role = {"model": "assistant", "function": "tool"}.get(str(item.get("role", "user")), item.get("role") or "user")
    chat: list[Any] = []
    words: list[Any] = []
    thoughts: list[str] = []
    calls: list[Any] = []
    for part in item["parts"]:
        given = part if isinstance(part, dict) else {"text": part}
        call = given.get("functionCall", given.get("function_call"))
        answer = given.get("functionResponse", given.get("function_response"))
        if isinstance(call, dict):
            calls.append(_call(call.get("name"), call.get("args"), call.get("id") or call.get("name")))
        elif isinstance(answer, dict):
            call_id = answer.get("id") or answer.get("name")
            chat.append(
                {"role": "tool", "tool_call_id": call_id, "name": answer.get("name"), "content": answer.get("response")}
            )
        elif given.get("thought") is True and isinstance(given.get("text"), str):
            thoughts.append(given["text"])
        else:
            words.append(given)
    texts = [part["text"] for part in words if isinstance(part.get("text"), str)]
    content: Any = "\n".join(texts) if len(texts) == len(words) else words
    if words or calls or thoughts:
        told = without(item, "parts", "role") | {"role": role, "content": content or None}
        told |= {"tool_calls": calls} if calls else {}
        chat.append(told | ({"reasoning_content": "\n\n".join(thoughts)} if thoughts else {}))
    return chat


def call_of(message: dict[str, Any]) -> dict[str, Any]:
    """Usage and model of the response that stands with an answer, as several programs keep it."""
    extra = message["extra"] if isinstance(message.get("extra"), dict) else {}
    response = extra["response"] if isinstance(extra.get("response"), dict) else message
    if isinstance(message.get("used"), dict):
        return {"usage": message["used"], "model": name_of(message.get("model"))}
    given = response["usage"] if isinstance(response.get("usage"), dict) else {}
    into = count(given.get("prompt_tokens", given.get("input_tokens")))
    out = count(given.get("completion_tokens", given.get("output_tokens")))
    if message.get("role") != "assistant" or into is None or out is None:
        return {}
    return {"usage": {"input_tokens": into, "output_tokens": out}, "model": name_of(response.get("model"))}


def arguments_of(arguments: Any) -> Any:
    """The arguments of a call. Models write them as JSON text; other text stays text."""
    if isinstance(arguments, str):
        try:
            return orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return arguments
    return arguments
