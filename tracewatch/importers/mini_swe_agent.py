"""mini-swe-agent's trajectories (``*.traj.json``): a conversation in which the model's commands are actions.

Checked against minisweagent/agents/default.py and models/ of mini-swe-agent 1.14 and 2.4.

Rule 1: a file is a trace ``mini-<digest of its beginning>``, as version 2 writes it anew after each step.
Rule 2: what follows the model's command is its result: version 2 says which commands there were, version 1 has them as
        one block of bash in the text.
Rule 3: costs are those of the answers; version 1 says one for the whole run, which stands with the first answer. It is
        completed where something was submitted, failed where an exception ended it, and else stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import amount
from .chat_forms import as_chat, call_of, form_of
from .openai import add_message, task_of
from .reading import digest_of, list_of, name_of, text_of, time_of, without
from .steps import ImportFault, Step
from .traces import TraceWriter, read_document

_BASH = re.compile(r"```bash\s*\n(.*?)\n```", re.DOTALL)
_CUT = "the trajectory ends before something was submitted"


def is_traj(value: Any) -> bool:
    """Whether a JSON value is such a trajectory."""
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        return False
    info = value.get("info")
    named = str(value.get("trajectory_format", "")).startswith("mini-swe-agent")
    return named or (isinstance(info, dict) and bool({"mini_version", "model_stats"} & info.keys()))


def read(path: Path) -> Iterator[Step]:
    """The steps of a trajectory."""
    unknown = ImportFault("this is JSON, and no trajectory of mini-swe-agent: it has messages and info")

    def tell(out: list[Step], value: dict[str, Any]) -> Iterator[None]:
        _Teller(out, value).tell()
        yield

    return read_document(path, is_traj, unknown, tell)


class _Teller:
    """Writes one trajectory."""

    def __init__(self, out: list[Step], value: dict[str, Any]) -> None:
        self._messages = [message for message in value["messages"] if isinstance(message, dict)]
        self._info = value["info"] if isinstance(value.get("info"), dict) else {}
        first = next((m for m in self._messages if _is_answer(m)), {})
        started = [m.get("content") for m in self._messages[:2]] + [_time(first), first.get("content")]
        name = f"mini-{digest_of([value.get('instance_id'), started])}"
        self._trace = TraceWriter(out, name, timeless=not any(map(_time, self._messages)), grows=True)
        self._at = next(filter(None, map(_time, self._messages)), None)
        metadata = {"format": "mini-swe-agent", "info": without(self._info, "submission")}
        metadata["source"] = without(value, "messages", "info")
        self._trace.create(task_of(self._messages), agent_type="mini-swe-agent", metadata=metadata, at=self._at)
        self._waiting: list[str] = []  # ids of commands without a result

    def tell(self) -> None:
        """Write all of it."""
        paid = any(amount(_extra(message).get("cost")) for message in self._messages)
        stats = self._info["model_stats"] if isinstance(self._info.get("model_stats"), dict) else {}
        whole = None if paid else amount(stats.get("instance_cost")) or None
        for place, message in enumerate(self._messages):
            self._at = _time(message) or self._at
            if message.get("role") == "exit":
                self._trace.event("mini_swe_agent.exit", {"message": message}, at=self._at)
            elif _is_answer(message):
                self._answer(place, message, whole)
                whole = 0.0 if whole is not None else None  # none of the others is priced beside it
            else:
                self._given(place, message)
        self._end()

    def _answer(self, place: int, message: dict[str, Any], whole: float | None) -> None:
        fields = call_of(message)
        if whole is not None:
            fields |= {"cost": whole, "cost_of": "whole run"}
        elif cost := amount(_extra(message).get("cost")):
            fields["cost"] = cost
        items = message["output"] if isinstance(message.get("output"), list) else [without(message, "extra")]
        form = form_of(items)
        chats = [chat for item in items for chat in as_chat(form, item)]
        for chat in chats:
            add_message(self._trace, chat, line=None, path=f"messages[{place}]", at=self._at, **fields)
            fields = {}
        if not any(isinstance(chat, dict) and chat.get("tool_calls") for chat in chats):
            self._commands(place, message)

    def _commands(self, place: int, message: dict[str, Any]) -> None:
        given = [a.get("command") for a in list_of(_extra(message).get("actions")) if isinstance(a, dict)]
        found = _BASH.findall(text_of(message.get("content")))
        for number, command in enumerate(given or (found if len(found) == 1 else [])):
            call_id = f"command-{place}-{number}"
            self._waiting.append(call_id)
            self._trace.call("bash", {"command": command}, call_id=call_id, at=self._at)

    def _given(self, place: int, message: dict[str, Any]) -> None:
        extra = _extra(message)
        rest = {key: extra[key] for key in ("returncode", "exception_info", "interrupt_type") if extra.get(key)}
        if message.get("role") == "user" and self._waiting and "interrupt_type" not in extra:
            call_id = self._waiting.pop(0)
            self._trace.result(call_id, message.get("content"), at=self._at, result_source=rest)
            return
        plain = without(message, "extra")
        for chat in as_chat(form_of([plain]), plain):
            add_message(self._trace, chat, line=None, path=f"messages[{place}]", at=self._at)

    def _end(self) -> None:
        last = _extra(self._messages[-1]) if self._messages else {}
        left = self._info.get("exit_status") or last.get("exit_status")
        if left == "Submitted":
            words = self._info.get("submission") or self._trace.last_text
            self._trace.complete("completed", summary=words if isinstance(words, str) else "", at=self._at)
        elif isinstance(last.get("exception_str"), str):
            self._trace.complete("failed", summary=str(left), error=last["exception_str"], at=self._at)
        else:
            self._trace.complete("stopped", summary=name_of(left) or _CUT, at=self._at)


def _is_answer(message: dict[str, Any]) -> bool:
    return message.get("role") == "assistant" or isinstance(message.get("output"), list)


def _extra(message: dict[str, Any]) -> dict[str, Any]:
    extra = message.get("extra")
    return extra if isinstance(extra, dict) else {}


def _time(message: dict[str, Any]) -> str | None:
    return time_of(message.get("timestamp") or _extra(message).get("timestamp"))
