"""One message, and what its model call was asked, as ``tracewatch show TRACE MESSAGE`` prints them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from ..client.api import Api
from ..client.errors import ApiError
from . import text
from .common import CliError, out_console
from .lines import compact, readable


def show_message(api: Api, trace_id: str, given: str | None, *, prompt: bool, output: str) -> None:
    """Print a message.

    ``given``: its message_id, or the number of the event that added it; None: the last model call's. Raises CliError if
    there is no such message, or if it has no prompt.
    """
    message_id = _last_call(api, trace_id) if given is None else given
    try:
        answer = api.message(trace_id, message_id, prompt=prompt)
    except ApiError as error:
        if error.code != "unknown_message" or not message_id.isdecimal():
            raise
        answer = api.message(trace_id, _added_by(api, trace_id, int(message_id)), prompt=prompt)
    message = answer["message"]
    if prompt and answer["prompt"] is None:
        raise CliError(f"message {message['message_id']} of trace {trace_id} does not say what its model was asked")
    if output == "json":
        wanted = ("message", "prompt") if prompt else ("message",)
        sys.stdout.buffer.write(text.json_document({key: answer[key] for key in wanted}))
        return
    console = out_console()
    _print_head(console, message)
    if prompt:
        _print_prompt(console, answer["prompt"])
    else:
        _block(console, readable(message["content"]))


def _last_call(api: Api, trace_id: str) -> str:
    """The last message with a request."""
    for message in reversed(api.messages(trace_id)["messages"]):
        if isinstance(message.get("request"), dict):
            return str(message["message_id"])
    raise CliError(f"none of the last messages of trace {trace_id} says what its model was asked; name a message")


def _added_by(api: Api, trace_id: str, event_id: int) -> str:
    """The message that an event added or updated."""
    for line in api.events(trace_id, str(event_id - 1)) if event_id else ():
        event = orjson.loads(line)
        message_id = event.get("message", {}).get("message_id") or event.get("message_id")
        if isinstance(message_id, str):
            return message_id
        break
    raise CliError(f"trace {trace_id} has no message {event_id}, and event {event_id} is none of a message's")


def _print_head(console: Console, message: Mapping[str, Any]) -> None:
    cost = text.dollars(message["cost"]) if "cost" in message else ""
    took = text.duration(message["duration_ms"]) if "duration_ms" in message else ""
    used = text.used(message, message.get("tokens"))
    words = [message["message_id"], message["role"], message.get("model", ""), used, cost, took]
    console.print(Text(text.one_line(" · ".join(str(word) for word in words if word)), "bold"), soft_wrap=True)


def _print_prompt(console: Console, prompt: Mapping[str, Any]) -> None:
    if "params" in prompt:
        _block(console, compact(prompt["params"]), "params")
    if "tools" in prompt:
        _block(console, "\n".join(map(compact, prompt["tools"])), f"tools ({len(prompt['tools'])})")
    for item in prompt.get("input", ()):
        _block(console, item_text(item), item_title(item))
    if prompt["lost"]:
        said = text.count(len(prompt["lost"]), "part") + " of it the trace no longer has: " + ", ".join(prompt["lost"])
        _block(console, said, "lost")
    elif prompt["exact"] is False:
        _block(console, "a message was changed after the call", "not exact")


def item_title(item: Any) -> str:
    """Who says an item of an input, or its type."""
    return str(item.get("role") or item.get("type") or "item") if isinstance(item, dict) else "item"


def item_text(item: Any) -> str:
    """The text of an item of an input, in any of the known forms; the rest of it as JSON."""
    if not isinstance(item, dict):
        return readable(item)
    key = next((key for key in ("content", "parts", "output") if key in item), None)
    if key is None:
        return compact({name: value for name, value in item.items() if name != "role"})
    value = item[key]
    said = "\n".join(readable(part) for part in value) if isinstance(value, list) else readable(value)
    rest = {name: value for name, value in item.items() if name not in ("role", "type", key)}
    return "\n".join(filter(None, (said, compact(rest) if rest else "")))


def _block(console: Console, words: str, title: str = "") -> None:
    if title:
        console.print(Text(text.one_line(title), "cyan"), soft_wrap=True)
    for line in text.escape(words).split("\n"):
        console.print(Text(f"  {line}" if title else line), soft_wrap=True)
