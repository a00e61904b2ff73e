"""Conversations: a list of messages, an object with ``messages``, a list of several of these, or one a line.

They are OpenAI's chat messages, or those of another API (chat_forms.py).

Rule 1: one conversation is one trace. JSONL whose lines are bare messages is one conversation.
Rule 2: a call in ``tool_calls`` and the ``tool`` message that answers it become one message.
Rule 3: the format has no times and no outcome: ``occurred_at`` is left out. A conversation is completed if it ends with
        an answer of the assistant, and otherwise stopped. What mini-swe-agent adds is read: ``timestamp`` (Unix
        seconds), ``extra.response.usage``, the cost of the whole run and its ``exit_status``, by which it is stopped
        unless something was submitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .chat_forms import arguments_of, as_chat, call_of, form_of, messages_of
from .reading import BadJson, digest, documents, name_of, text_of, time_of, without
from .steps import ImportFault, Step
from .traces import TraceWriter, drain

_MAPPED = ("role", "content", "tool_calls", "tool_call_id", "name", "function_call", "reasoning_content", "used")


def read(path: Path) -> Iterator[Step]:
    """The steps of each conversation in the file."""
    prefix = f"chat-{digest([path])}"
    out: list[Step] = []
    loose: list[tuple[int | None, str, Any]] = []  # messages on a line of their own
    for index, (line, value, where) in enumerate(_conversations(path, loose), 1):
        if isinstance(value, ImportFault):
            yield value
            continue
        extra = without(value, "messages", "contents", "input", "output", "system") if isinstance(value, dict) else {}
        messages = messages_of(value) or []
        _trace(out, f"{prefix}-{index:04d}", [(line, f"{where}[{i}]", m) for i, m in enumerate(messages)], extra)
        yield from drain(out)
    if loose:
        _trace(out, f"{prefix}-0000", loose, {})
        yield from drain(out)


def _conversations(path: Path, loose: list[tuple[int | None, str, Any]]) -> Iterator[tuple[int | None, Any, str]]:
    """Each conversation with its line and the path of its messages; anything else as an ImportFault."""
    for line, value in documents(path):
        if isinstance(value, BadJson):
            yield line, ImportFault(value.message, value.line), ""
        elif _is_conversation(value):
            yield line, value, _where(value)
        elif isinstance(value, dict) and ("role" in value or messages_of([value])) and line is not None:
            loose.append((line, "", value))
        elif isinstance(value, list) and value:
            for index, item in enumerate(value):
                if _is_conversation(item):
                    yield line, item, f"[{index}]{_where(item)}"
                else:
                    yield line, ImportFault("neither a message nor a conversation", line, f"[{index}]"), ""
        else:
            message = 'neither a list of chat messages nor an object with "messages"'
            yield line, ImportFault(message, line, "messages" if isinstance(value, dict) else None), ""


def _where(conversation: Any) -> str:
    keys = conversation if isinstance(conversation, dict) else {}
    return next((key for key in ("messages", "contents", "output") if key in keys), "")


def _is_conversation(value: Any) -> bool:
    return messages_of(value) is not None


def _trace(out: list[Step], trace_id: str, messages: list[tuple[int | None, str, Any]], extra: dict[str, Any]) -> None:
    trace, form = TraceWriter(out, trace_id), form_of([message for _, _, message in messages])
    messages = [(line, path, chat) for line, path, message in messages for chat in as_chat(form, message)]
    metadata = {"format": form} | ({"source": extra} if extra else {})
    times = [time_of(message.get("timestamp")) for _, _, message in messages if isinstance(message, dict)]
    at = next(filter(None, times), None)  # a message without a time has that of the one before it
    trace.timeless = at is None
    trace.create(task_of([m for _, _, m in messages]), agent_type="chat", metadata=metadata)
    for line, path, message in messages:
        given = message if isinstance(message, dict) else {}
        at = time_of(given.get("timestamp")) or at
        add_message(trace, message, line=line, path=path, at=at, **call_of(given))
    if messages and _answers(messages[-1][2]):
        trace.complete("completed", summary=trace.last_text, at=at)
    else:
        trace.complete("stopped", summary="the conversation ends before the assistant has answered", at=at)


def _is_answer(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _answers(message: Any) -> bool:
    """Whether a conversation that ends with this message has ended with an answer."""
    if not _is_answer(message) or message.get("tool_calls") or message.get("function_call"):
        return False
    return any(message.get(key) for key in ("content", "refusal", "audio"))


def task_of(messages: list[Any]) -> str:
    """The text of the first user message, else of the first message; "" if there is none."""
    rows = [m for m in messages if isinstance(m, dict)]
    asked = [text for m in rows if m.get("role") == "user" and (text := text_of(m.get("content")).strip())]
    return asked[0] if asked else text_of(rows[0].get("content")) if rows else ""


def add_message(
    trace: TraceWriter, message: Any, *, line: int | None, path: str, at: str | None = None, **fields: Any
) -> None:
    """Write one chat message into ``trace``. ``line`` and ``path`` are its place in the file, for faults.

    ``fields`` are further keys of the stored message; of the first one, if it becomes several.
    """
    if not isinstance(message, dict):
        trace.out.append(ImportFault("a message is a JSON object", line, path or None))
        return
    role = name_of(message.get("role"))
    if role is None:
        trace.out.append(ImportFault("must be a role such as user or assistant", line, _join(path, "role")))
        trace.event("import.message", {"message": message}, at=at)
        return
    source = without(message, *_MAPPED)
    if role in ("tool", "function"):
        call_id = message.get("tool_call_id") or message.get("name")
        call_id = call_id if isinstance(call_id, str) else None
        name = name_of(message.get("name")) or "unknown"
        failed = source.pop("is_error", False) is True
        value = message.get("content")
        trace.result(call_id, value, failed=failed, tool=name, at=at, result_source=source, **fields)
        return
    thought = message.get("reasoning_content")
    if isinstance(thought, str) and thought:
        trace.message(role, thought, at=at, kind="thought")
    elif thought is not None:
        source["reasoning_content"] = thought
    if "name" in message:
        source["name"] = message["name"]
    content, calls = message.get("content"), _calls(trace, message, line, path)
    silent = bool(calls or isinstance(thought, str)) and not isinstance(content, (list, dict))
    if not silent or text_of(content).strip():
        trace.message(role, "" if content is None else content, at=at, source=source, **fields)
        source, fields = {}, {}
    for call in calls:
        function = call["function"]
        trace.call(
            name_of(function.get("name")) or "unknown",
            arguments_of(function.get("arguments")),
            call_id=call.get("id") if isinstance(call.get("id"), str) else None,
            at=at,
            source={**source, **without(call, "id", "function", "type")} or None,
            **fields,
        )
        source, fields = {}, {}


def _calls(trace: TraceWriter, message: dict[str, Any], line: int | None, path: str) -> list[dict[str, Any]]:
    """The readable tool calls of a message; each of the others becomes a fault."""
    given = message.get("tool_calls") or []
    if not isinstance(given, list):
        trace.out.append(ImportFault("must be a list", line, _join(path, "tool_calls")))
        given = []
    calls = []
    for index, call in enumerate(given):
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            calls.append(call)
        else:
            where = _join(path, f"tool_calls[{index}].function")
            trace.out.append(ImportFault("must be an object with name and arguments", line, where))
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        calls.append({"id": legacy.get("name"), "function": legacy})  # its answer is found by the function's name
    return calls


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
