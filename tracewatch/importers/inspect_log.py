"""Inspect's logs of evaluations: ``.eval`` (a zip of JSON) and ``.json``.

Made after the documentation and source of inspect_ai.log. Tests have small logs written by hand in its form.

Rule 1: a log is a trace ``inspect-<its eval_id>`` and each sample a sub-trace with the sample's uuid, else its id and
        epoch. Samples are read one at a time.
Rule 2: messages are those of the sample; their times, models and usage are those of the model events that made them.
Rule 3: a sample with an error has failed; one that a limit has cut off is stopped; any other is completed, whatever its
        score, which stands in its summary and in an event.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model.fit import count
from .openai import add_message
from .reading import BadJson, clip, digest, list_of, load, name_of, text_of, time_of, whole, without
from .steps import ImportFault, Step
from .traces import TraceWriter, drain

_PARTS = {
    "input_tokens_cache_read": "cache_read_tokens",
    "input_tokens_cache_write": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
}
_ODD = re.compile(r"[^A-Za-z0-9._@-]")
_ENDS = {"success": "completed", "cancelled": "stopped", "error": "failed"}
_KEPT = ("events", "messages", "store", "attachments", "output")


def is_log(value: Any) -> bool:
    """Whether a JSON value is such a log."""
    return isinstance(value, dict) and isinstance(value.get("eval"), dict) and "status" in value and "version" in value


def is_archive(path: Path) -> bool:
    """Whether the file is an ``.eval``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool({"header.json", "_journal/start.json"} & set(archive.namelist()))
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: Path) -> Iterator[Step]:
    """The steps of a log with all its samples."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from _log(path, *_of_archive(archive))
            return
        value = whole(path)
    except BadJson as error:
        yield ImportFault(error.message, error.line)
        return
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        yield ImportFault(f"this is no .eval that can be read: {error}")
        return
    if not is_log(value):
        yield ImportFault("this is JSON, and no log of Inspect: it has eval, status and version")
        return
    yield from _log(path, without(value, "samples"), iter(list_of(value.get("samples"))))


def _of_archive(archive: zipfile.ZipFile) -> tuple[dict[str, Any], Iterator[Any]]:
    names = archive.namelist()
    head = "header.json" if "header.json" in names else "_journal/start.json"
    value = load(archive.read(head)) if head in names else {}

    def samples() -> Iterator[Any]:
        for name in sorted(n for n in names if n.startswith("samples/") and n.endswith(".json")):
            try:
                yield load(archive.read(name))
            except (BadJson, zipfile.BadZipFile) as error:
                yield ImportFault(getattr(error, "message", None) or str(error), None, name)

    return (value if isinstance(value, dict) else {}), samples()


def _log(path: Path, head: dict[str, Any], samples: Iterator[Any]) -> Iterator[Step]:
    about = head["eval"] if isinstance(head.get("eval"), dict) else {}
    stats = head["stats"] if isinstance(head.get("stats"), dict) else {}
    out: list[Step] = []
    own = str(about.get("eval_id") or about.get("run_id") or digest([path]))
    run = TraceWriter(out, f"inspect-{_ODD.sub('_', own)}"[:90], grows=True)
    at = time_of(stats.get("started_at") or about.get("created"))
    run.timeless = at is None
    name = str(about.get("task") or "evaluation")
    metadata = {"format": "inspect", "model": about.get("model"), "eval": about, "results": head.get("results")}
    run.create(f"{name} ({about.get('model')})", agent_type="evaluation", metadata=metadata, at=at)
    number = 0
    for number, sample in enumerate(samples, 1):
        if isinstance(sample, dict):
            _sample(run, sample, f"{number:04d}", f"samples[{number - 1}].")
        else:
            fault = ImportFault("a sample is a JSON object", None, f"samples[{number - 1}]")
            out.append(sample if isinstance(sample, ImportFault) else fault)
        yield from drain(out)
    run.event("inspect.result", {"results": head.get("results"), "stats": stats, "status": head.get("status")}, at=at)
    error = head["error"].get("message") if isinstance(head.get("error"), dict) else None
    status = _ENDS.get(str(head.get("status")), "stopped")
    at = time_of(stats.get("completed_at")) or at
    run.complete(status, summary=f"{number} samples: {head.get('status')}", error=error, at=at)
    yield from drain(out)


def _sample(whole: TraceWriter, sample: dict[str, Any], number: str, path: str) -> None:
    own = _ODD.sub("_", name_of(sample.get("uuid")) or number)
    trace = TraceWriter(whole.out, f"{whole.trace_id}-{own}"[:128], grows=True)
    calls = _calls(sample.get("events"))
    at = time_of(sample.get("started_at")) or next((call["at"] for call in calls.values() if call["at"]), None)
    trace.timeless = at is None and whole.timeless
    given = sample.get("input")
    asked = [m for m in given if isinstance(m, dict)] if isinstance(given, list) else []
    task = given if isinstance(given, str) else text_of(asked[-1].get("content")) if asked else ""
    rest = without(sample, *_KEPT)
    trace.create(task, agent_type="inspect", parent=whole, metadata={"format": "inspect", "sample": rest}, at=at)
    messages = sample["messages"] if isinstance(sample.get("messages"), list) else []
    for place, message in enumerate(messages):
        made = calls.get(str(message.get("id"))) if isinstance(message, dict) else None
        at = (made["at"] if made else None) or at
        fields = {key: made[key] for key in ("usage", "model") if made[key]} if made else {}
        add_message(trace, _chat(message), line=None, path=f"{path}messages[{place}]", at=at, **fields)
    scores = sample["scores"] if isinstance(sample.get("scores"), dict) else {}
    scores = scores or ({"score": sample["score"]} if sample.get("score") else {})
    trace.event("inspect.scores", {"scores": scores, "target": sample.get("target")}, at=at)
    told = ", ".join(f"{name}: {one.get('value')}" for name, one in scores.items() if isinstance(one, dict))
    error, limit = sample.get("error"), sample.get("limit")
    at = time_of(sample.get("completed_at")) or at
    if isinstance(error, dict):
        trace.complete("failed", summary=told, error=str(error.get("message")), at=at)
    elif isinstance(limit, dict):
        trace.complete("stopped", summary=clip(f"limit of {limit.get('type')}; {told}".rstrip("; "), 2000), at=at)
    else:
        trace.complete("completed", summary=told or trace.last_text, at=at)


def _calls(events: Any) -> dict[str, dict[str, Any]]:
    """What the model events say of the messages that they made, by the messages' ids."""
    found: dict[str, dict[str, Any]] = {}
    for event in events if isinstance(events, list) else ():
        output = event.get("output") if isinstance(event, dict) and event.get("event") == "model" else None
        choices = output.get("choices") if isinstance(output, dict) else None
        message = (
            list_of(choices)[0].get("message") if list_of(choices) and isinstance(list_of(choices)[0], dict) else None
        )
        if not isinstance(message, dict) or not message.get("id") or output is None:
            continue
        at = time_of(event.get("completed") or event.get("timestamp"))
        found[str(message["id"])] = {
            "at": at, "model": name_of(output.get("model")), "usage": _usage(output.get("usage")),
        }  # fmt: skip
    return found


def _usage(given: Any) -> dict[str, int]:
    if not isinstance(given, dict):
        return {}
    parts = {ours: number for theirs, ours in _PARTS.items() if (number := count(given.get(theirs)))}
    into, out = count(given.get("input_tokens")), count(given.get("output_tokens"))
    if into is None or out is None:
        return {}
    beside = parts.get("cache_read_tokens", 0) + parts.get("cache_write_tokens", 0)
    total = count(given.get("total_tokens"))
    within = total is not None and total == into + out  # else what a cache had is counted beside the input
    return {"input_tokens": into + (0 if within else beside), "output_tokens": out, **parts}


def _chat(message: Any) -> Any:
    """A chat message as others have it."""
    if not isinstance(message, dict):
        return message
    chat = without(message, "error", "function", "tool_calls")
    content = message.get("content")
    if isinstance(content, list):
        thoughts = [p.get("reasoning") for p in content if isinstance(p, dict) and p.get("type") == "reasoning"]
        texts = [p for p in content if not (isinstance(p, dict) and p.get("type") == "reasoning")]
        only = all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in texts)
        chat["content"] = "\n".join(p["text"] for p in texts) if only else texts
        if thoughts:
            chat["reasoning_content"] = "\n\n".join(str(thought) for thought in thoughts if thought)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        chat["tool_calls"] = [
            {"id": call.get("id"), "function": {"name": call.get("function"), "arguments": call.get("arguments")}}
            for call in calls
            if isinstance(call, dict)
        ]
    if message.get("role") == "tool":
        error = message.get("error")
        chat |= {"name": message.get("function")}
        chat |= {"is_error": True, "content": error.get("message")} if isinstance(error, dict) else {}
    return chat
