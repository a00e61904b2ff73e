"""LangSmith's runs as items: what LangChain, LangGraph and ``@traceable`` mean by them. Pure.

Rule 1: a run is upserted by its id. A patch may come before its post, and either may be all that comes.
Rule 2: an agent is the run at the root, unless it is a model's or a tool's; a graph that ``create_agent`` made, by its
        name; and a graph below another that is no node of it. What else is a ``chain`` is a step.
Rule 3: a run that LangGraph interrupted has not failed: it asks a question, which only who runs the graph can answer.
Rule 4: usage is that of model calls. LangChain counts cached tokens as part of the input.

Sources: https://docs.langchain.com/langsmith/run-data-format, and what the current releases were seen to send.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ..model.fit import json_bytes
from ..model.mend import event_name
from .interrupts import bubbled, questions
from .items import ROOT, Item, Kind, error_of, usage_of
from .langsmith import AttachedFile, Body, Run, RunOperation
from .resumes import begins_resumed
from .said import Message, answer, last_user_text, messages, text_of

KINDS: dict[str, Kind] = {"llm": "model_call", "tool": "tool", "retriever": "tool", "embedding": "tool"}
STEPS = ("chain", "prompt", "parser")
GRAPH = ("CompiledStateGraph", "CompiledGraph", "Pregel")  # of JavaScript's ``serialized``
PARTS_OF_LCEL = ("Runnable", "Channel", "Branch<", "__", "LangGraph")  # begin the names of what is no agent
STOPS = ("CancelledError(", "KeyboardInterrupt(", "GeneratorExit(")
TAGS = ("graph:step:", "seq:step:", "map:key:", "langsmith:")  # LangChain's own
SESSION = ("thread_id", "session_id", "conversation_id")
USER = ("user_id", "user")
TASK = ("task", "input", "question", "query", "prompt", "text", "message")
NOISE = ("LANGSMITH_", "LANGCHAIN_", "langgraph_", "ls_", "lc_", "checkpoint_", "__")  # begin keys of metadata
MAPPED = frozenset(
    {
        *("usage_metadata", "model", "model_name", "_type", "stop", "stream", "stream_options", "versions"),
        *("temperature", "max_tokens", "revision_id", *SESSION, *USER),
    }
)
EVENTS = ("start", "end", "new_token", "error")  # of a run, that say no more than the run
MOST_EVENTS = 100  # of one run
MOST_METADATA = 16 * 1024  # bytes of what has no place of its own
SHOWN_CHARS = 120  # of the last message of a state that a step was given


def items(body: Body) -> Iterator[Item]:
    """The items of what one request brought."""
    for operation in body.operations:
        yield from of_run(operation)
    for feedback in body.feedback:
        yield from of_feedback(feedback)


def of_run(operation: RunOperation) -> Iterator[Item]:
    """The item that a run is, and those of its questions, events and attachments."""
    run = operation.run
    trace, parent = place_of(run)
    error = run.get("error") if isinstance(run.get("error"), str) and run["error"] else None
    asked = questions(error) if error is not None else []
    item = Item(trace=trace, key=run["id"], parent=parent, kind=_kind(run, parent), root=trace)
    item.name = _text(run.get("name"))
    item.started_at, item.ended_at = seconds(run.get("start_time")), seconds(run.get("end_time"))
    item.final = item.ended_at is not None or error is not None
    thread = metadata_of(run).get("thread_id")
    item.thread = str(thread) if isinstance(thread, str | int) and thread else None
    item.resumes = resumed(run.get("inputs"))
    _READERS.get(item.kind, _read_step)(item, run)
    if item.parent == ROOT and item.kind != "agent":
        _whose(item, run)
    if asked or (error is not None and bubbled(error)):
        _interrupted(item, [question.key for question in asked])
    elif error is not None:
        item.error = error_in(error)
        item.status = "stopped" if error.startswith(STOPS) else item.status
    if (above := _sequence_above(run, item)) is not None:
        yield above
    yield item
    for question in asked:
        yield Item(
            trace=trace,
            key=question.key,
            kind="question",
            parent=trace,
            name=question.text,
            options=question.options,
            started_at=item.ended_at,
            thread=item.thread,
            root=trace,
            fields=_ASKED | ({"interrupt": question.value} if question.is_more else {}),
        )
    yield from _events(item, run)
    for attachment in operation.attachments:
        yield _attached(item, attachment)


_ASKED = {"answerable": "terminal", "resumable": True}


def _interrupted(item: Item, asked: list[str]) -> None:
    if item.kind == "agent":
        if asked:
            item.final, item.status = False, "waiting"
    else:
        item.status = "stopped"
        if asked:
            item.fields["interrupted_by"] = asked


# --- what it is ----------------------------------------------------------------------------------------------------


def place_of(run: Run) -> tuple[str, str | None]:
    """The trace of a run, and its parent: ROOT, or None where nothing says it."""
    line = [one[-36:] for one in _text(run.get("dotted_order"), "").split(".") if len(one) > 36]
    parent = _text(run.get("parent_run_id"))
    trace = _text(run.get("trace_id")) or (line[0] if line else None)
    if parent is None and len(line) > 1 and line[-1] == run["id"]:
        parent = line[-2]
    if parent is None and (trace == run["id"] or ("parent_run_id" in run and trace is None)):
        parent = ROOT
    return trace or run["id"], parent


def _sequence_above(run: Run, item: Item) -> Item | None:
    """The parent of a step of a sequence, which is one: it is known to be no agent before it comes.

    Requests of one client overtake each other, and so a model call its node.
    """
    line = [one[-36:] for one in _text(run.get("dotted_order"), "").split(".")]
    if len(line) < 3 or line[-2] != item.parent or not any(tag.startswith("seq:step:") for tag in _tags(run)):
        return None
    return Item(trace=item.trace, key=line[-2], kind="step", parent=line[-3], root=item.trace, thread=item.thread)


def metadata_of(run: Run) -> dict[str, Any]:
    """A run's metadata."""
    extra = run.get("extra")
    metadata = extra.get("metadata") if isinstance(extra, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def is_known(run: Run) -> bool:
    """Whether this is a type of run that has a mapping of its own."""
    return run.get("run_type") in (None, *KINDS, *STEPS)


def _kind(run: Run, parent: str | None) -> Kind | None:
    run_type = run.get("run_type")
    if run_type is None:
        return None
    kind = KINDS.get(run_type) if isinstance(run_type, str) else None
    if kind is not None:
        return kind
    return "agent" if parent == ROOT or _is_agent(run) else "step"


def _is_agent(run: Run) -> bool:
    """Whether a chain below the root is a graph that is an agent."""
    metadata, name, tags = metadata_of(run), run.get("name"), _tags(run)
    if not isinstance(name, str) or any(tag.startswith("graph:step:") for tag in tags):
        return False  # a node of a graph
    if metadata.get("lc_agent_name"):
        return bool(metadata["lc_agent_name"] == name)
    serialized = run.get("serialized")
    path = serialized.get("id") if isinstance(serialized, dict) else None
    if isinstance(path, list):
        return bool(path) and path[-1] in GRAPH
    if metadata.get("ls_integration") != "langgraph" or name.startswith(PARTS_OF_LCEL):
        return False
    if any(tag.startswith("seq:step:") for tag in tags):
        return False
    state = _dict(run.get("inputs")) or _dict(run.get("outputs"))
    return isinstance(state.get("messages"), list)


def _tags(run: Run) -> list[str]:
    tags = run.get("tags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _text(value: Any, default: str | None = None) -> Any:
    return value if isinstance(value, str) and value else default


def seconds(value: Any) -> float | None:
    """A time as LangSmith's clients write it, in Unix seconds: ISO 8601 (UTC where it names no zone), or milliseconds.

    >>> seconds(1796012748570), seconds("2026-11-30T04:25:48.563002Z")
    (1796012748.57, 1796012748.563002)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000 if 0 < value < 1e15 else None
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def error_in(text: str) -> dict[str, Any]:
    """An error of a run, as Python writes it (``repr`` and traceback) or JavaScript (message, and stack)."""
    head, gap, stack = text.partition("\n\n")
    if gap and "\n    at " in stack:
        name, colon, _ = stack.partition(": ")
        return error_of(head, name if colon and name.isidentifier() else None, stack)
    return error_of(text)


# --- what it says --------------------------------------------------------------------------------------------------


def _read_call(item: Item, run: Run) -> None:
    inputs, extra, metadata = _dict(run.get("inputs")), _dict(run.get("extra")), metadata_of(run)
    outputs = _dict(run.get("outputs")) if item.final else {}
    params = _dict(extra.get("invocation_params"))
    item.input = asked(inputs)
    item.task = last_user_text(item.input)
    said = _answered(outputs)
    content = said.get("content")
    if isinstance(content, str):
        item.text = content or None
    elif content is not None:
        item.content = content
    item.thinking, item.tool_calls = said.get("thinking"), said.get("tool_calls")
    names = (metadata.get("ls_model_name"), inputs.get("model"), params.get("model"), params.get("model_name"))
    item.model = next((name for name in (*names, outputs.get("model")) if isinstance(name, str) and name), None)
    item.usage, item.cost = _usage(outputs, metadata)
    tools = next((one["tools"] for one in (inputs, params, _dict(extra.get("options"))) if one.get("tools")), None)
    item.tools = tools if isinstance(tools, list) else None
    item.params = _params(inputs, params, metadata)
    first = next((one for one in _dicts(run.get("events")) if one.get("name") == "new_token"), None)
    if first is not None and (at := seconds(first.get("time"))) is not None and item.started_at is not None:
        item.fields["first_token_s"] = round(max(at - item.started_at, 0.0), 3)
    if not item.name or item.model is None:
        item.model = item.model or item.name
    _keep(item, run)


def asked(inputs: dict[str, Any]) -> list[Message] | None:
    """What a model was asked: messages of LangChain or a provider's API, a prompt's text, or whatever it was given."""
    prompts = inputs.get("prompts")
    if isinstance(prompts, list) and prompts:
        return [{"role": "user", "content": str(one)} for one in prompts]
    found = messages(inputs)
    if found is None and isinstance(inputs.get("input"), str):
        found = [{"role": "user", "content": inputs["input"]}]
    system = inputs.get("system") or inputs.get("instructions")
    if found is not None and system and not (found and found[0]["role"] == "system"):
        found = [{"role": "system", "content": text_of(system)}, *found]
    if found is None and inputs:
        text = _only_text(inputs)
        found = [{"role": "user", "content": inputs if text is None else text}]
    return found


def _answered(outputs: dict[str, Any]) -> Message:
    """What a model answered."""
    generations = outputs.get("generations")
    if isinstance(generations, list) and generations:
        many = [one for some in generations for one in (some if isinstance(some, list) else [some])]
        first = next((one for one in many if isinstance(one, dict)), {})
        said = answer(messages([first["message"]])) if isinstance(first.get("message"), dict) else {}
        return said or {"content": first.get("text")}
    for key in ("choices", "candidates"):
        if isinstance(outputs.get(key), list):
            choices = [one.get("message") or one.get("content") for one in _dicts(outputs[key])]
            said = answer(messages([{"role": "assistant", **one} for one in _dicts(choices)]))
            return said or {"content": next((one.get("text") for one in _dicts(outputs[key])), None)}
    if "role" in outputs or "content" in outputs:
        return answer(messages([{"role": "assistant", **outputs}]))
    for key in ("message", "messages", "output"):
        value = outputs.get(key)
        if isinstance(value, str):
            return {"content": value}
        if value:
            found = messages(value if isinstance(value, list) else [value])
            if said := answer([{**one, "role": "assistant"} for one in found or () if one.get("role") != "tool"]):
                return said
    rest = {key: value for key, value in outputs.items() if key not in ("usage", "usage_metadata")}
    text = _only_text(rest)
    return {"content": rest if text is None else text} if rest else {}


def _usage(outputs: dict[str, Any], metadata: dict[str, Any]) -> tuple[dict[str, int] | None, float | None]:
    """The tokens of a model call, and its cost where the run says it."""
    message = _dict(_first(_first(outputs.get("generations"))).get("message"))
    told = (metadata, _dict(message.get("kwargs")), message, outputs)
    found = next((one["usage_metadata"] for one in told if isinstance(one.get("usage_metadata"), dict)), None)
    if found is not None:
        given, made = _dict(found.get("input_token_details")), _dict(found.get("output_token_details"))
        written = [given[key] for key in given if key == "cache_creation" or key.startswith("ephemeral_")]
        usage = usage_of(
            found.get("input_tokens"),
            found.get("output_tokens"),
            cache_read=given.get("cache_read"),
            cache_write=sum(map(_count, written)) if written else None,
            reasoning=made.get("reasoning"),
        )
        cost = found.get("total_cost")
        return usage, cost if isinstance(cost, int | float) and not isinstance(cost, bool) else None
    raw = _dict(outputs.get("usage") or _dict(outputs.get("llm_output")).get("token_usage"))
    given = _dict(raw.get("prompt_tokens_details") or raw.get("input_tokens_details"))
    made = _dict(raw.get("completion_tokens_details") or raw.get("output_tokens_details"))
    beside = raw.get("cache_read_input_tokens"), raw.get("cache_creation_input_tokens")
    return usage_of(
        raw.get("prompt_tokens", raw.get("input_tokens", raw.get("promptTokens"))),
        raw.get("completion_tokens", raw.get("output_tokens", raw.get("completionTokens"))),
        cache_read=given.get("cached_tokens", beside[0]),
        cache_write=beside[1],
        reasoning=made.get("reasoning_tokens"),
        cache_beside=beside != (None, None),
    ), None


_NO_PARAMS = ("messages", "input", "contents", "prompts", "tools", "model", "model_name", "system", "instructions",
              "_type", "stream", "stream_options")  # fmt: skip


def _params(inputs: dict[str, Any], invocation: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any] | None:
    said = _dict(metadata.get("ls_invocation_params"))
    beside = inputs if "model" in inputs else {}  # a provider's own client was wrapped
    for name in ("temperature", "max_tokens"):
        if metadata.get(f"ls_{name}") is not None:
            said = {name: metadata[f"ls_{name}"], **said}
    params = {**said, **invocation, **beside}
    return {key: value for key, value in params.items() if key not in _NO_PARAMS and value is not None} or None


def _read_tool(item: Item, run: Run) -> None:
    inputs, outputs = run.get("inputs"), run.get("outputs")
    item.arguments = inputs["input"] if isinstance(inputs, dict) and set(inputs) == {"input"} else inputs
    call_id = _dict(run.get("extra")).get("tool_call_id")
    if item.final:
        result = outputs["output"] if isinstance(outputs, dict) and set(outputs) == {"output"} else outputs
        said = result.get("kwargs", result) if isinstance(result, dict) else {}
        if isinstance(said, dict) and "tool_call_id" in said:  # LangChain's tool message
            call_id = call_id or said["tool_call_id"]
            result = messages([{"type": "tool", **said}])
            result = result[0]["content"] if result else said.get("content")
            if said.get("status") == "error":
                item.error = {"type": "ToolError", "message": result if isinstance(result, str) else "failed"}
        item.result = result if result != {} else None
    item.tool_call_id = call_id if isinstance(call_id, str) and call_id else None
    if run.get("run_type") != "tool":
        item.fields["kind"] = run["run_type"]
    _keep(item, run)


def _read_agent(item: Item, run: Run) -> None:
    inputs, outputs = _dict(run.get("inputs")), _dict(run.get("outputs"))
    metadata = metadata_of(run)
    item.name = _text(metadata.get("lc_agent_name")) or item.name
    item.task = last_user_text(messages(inputs)) or _only_text(inputs)
    if item.final:
        found = [one for one in messages(outputs) or () if one.get("role") == "assistant"]
        item.result = answer(found[-1:]).get("content") or _only_text(outputs)
        if item.result is None and outputs and set(outputs) != {"messages"}:
            item.result = outputs.get("output") if set(outputs) == {"output"} else outputs
    _whose(item, run)
    if item.parent != ROOT:
        item.place = _text(metadata.get("langgraph_checkpoint_ns")) if item.thread else None
    runtime = _dict(_dict(run.get("extra")).get("runtime"))
    about = {"project": run.get("session_name"), "sdk": runtime.get("sdk"), "sdk_version": runtime.get("sdk_version")}
    item.fields = {key: value for key, value in about.items() if isinstance(value, str) and value}
    item.fields |= _own(metadata)
    if item.place:
        item.fields["checkpoint_ns"] = item.place
    if item.parent == ROOT and item.resumes is not None:
        item.fields |= begins_resumed(item)


def resumed(inputs: Any) -> list[Any] | None:
    """The answer with which a graph is resumed, in a list; None where it isn't. ``inputs``: of its run.

    >>> resumed({"input": {"graph": None, "update": None, "resume": "yes", "goto": []}})
    ['yes']
    """
    command = inputs.get("input", inputs) if isinstance(inputs, dict) else None
    if not isinstance(command, dict) or command.get("resume") is None:
        return None
    return [command["resume"]] if "goto" in command or "lg_name" in command or "graph" in command else None


def _read_step(item: Item, run: Run) -> None:
    item.arguments = _shown(run.get("inputs"))
    item.result = _shown(run.get("outputs")) if item.final else None
    tags = _tags(run)
    is_node = any(tag.startswith("graph:step:") for tag in tags)
    kind = "node" if is_node else run.get("run_type")
    if isinstance(kind, str):
        item.fields["kind"] = kind[:64]
    if "langsmith:hidden" in tags:
        item.fields["hidden"] = True
    _keep(item, run)


_READERS: dict[Kind | None, Any] = {"model_call": _read_call, "tool": _read_tool, "agent": _read_agent}


def _whose(item: Item, run: Run) -> None:
    metadata = metadata_of(run)
    item.session_id = next((str(metadata[key]) for key in SESSION if metadata.get(key)), None)
    item.user_id = next((str(metadata[key]) for key in USER if isinstance(metadata.get(key), str | int)), None)
    item.tags = [tag for tag in _tags(run) if not tag.startswith(TAGS)] or None


def _keep(item: Item, run: Run) -> None:
    metadata = metadata_of(run)
    kept = _own(metadata)
    for key, name in (("langgraph_step", "step"), ("ls_provider", "provider")):
        if metadata.get(key) is not None and item.kind == "model_call":
            kept[name] = metadata[key]
    if item.kind == "model_call" and item.name and item.name != item.model:
        item.fields["name"] = item.name
    if tags := [tag for tag in _tags(run) if not tag.startswith(TAGS)]:
        kept["tags"] = tags[:64]
    if kept:
        item.fields["attributes"] = kept


def _own(metadata: dict[str, Any]) -> dict[str, Any]:
    """What of a run's metadata is its user's, in bounds."""
    kept: dict[str, Any] = {}
    size = 0
    for key, value in metadata.items():
        if value is None or key in MAPPED or key.startswith(NOISE):
            continue
        size += json_bytes(value) + len(key)
        if size > MOST_METADATA:
            kept["…"] = f"{len(metadata) - len(kept)} more"
            break
        kept[key] = value
    return kept


def _shown(value: Any) -> Any:
    """What of a node's input or output is shown: of a state with messages how many there are, and the last one."""
    if not value:
        return None
    if isinstance(value, dict) and set(value) == {"output"} and isinstance(value["output"], list) and value["output"]:
        updates = [one.get("update") for one in _dicts(value["output"])]
        value = updates[-1] if isinstance(updates[-1] if updates else None, dict) else value  # LangGraph's commands
    given = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(given, list) or not given:
        return value
    last = (messages(given[-1:]) or [{}])[-1]
    said = text_of(last.get("content"))
    names = [str(call.get("name")) for call in last.get("tool_calls") or ()]
    text = said if isinstance(said, str) and said else f"→ {', '.join(names)}" if names else ""
    shown = f"{text[:SHOWN_CHARS]}…" if len(text) > SHOWN_CHARS else text
    rest = {key: one for key, one in value.items() if key != "messages"}
    return {"messages": len(given), "last": f"{last.get('role', '')}: {shown}", **rest}


def _only_text(values: dict[str, Any]) -> str | None:
    """The text that says what it is about: of a usual name, or the only one there is."""
    for name in TASK:
        if isinstance(values.get(name), str) and values[name].strip():
            return str(values[name])
    texts = [value for value in values.values() if isinstance(value, str) and value.strip()]
    return texts[0] if len(values) == len(texts) == 1 else None


# --- what else there is --------------------------------------------------------------------------------------------


def _events(item: Item, run: Run) -> Iterator[Item]:
    for number, event in enumerate(_dicts(run.get("events"))[:MOST_EVENTS]):
        name = event.get("name")
        if name in EVENTS:
            continue
        yield Item(
            trace=item.trace,
            key=f"{item.key}.e{number}",
            kind="event",
            parent=item.key,
            name="langsmith.event",
            started_at=seconds(event.get("time")),
            final=True,
            fields={"name": str(name), "attributes": {k: v for k, v in event.items() if k not in ("name", "time")}},
        )


def _attached(item: Item, attachment: AttachedFile) -> Item:
    """A file beside a run, as a message in it: its bytes go beside the log."""
    media_type = attachment.media_type or "application/octet-stream"
    kind = media_type.partition("/")[0]
    block = {
        "type": kind if kind in ("image", "audio", "video") else "file",
        "name": attachment.name,
        "media_type": media_type,
        "blob": base64.b64encode(attachment.data).decode(),
    }
    made = Item(trace=item.trace, key=f"{item.key}.{attachment.name}", kind="message", parent=item.key, final=True)
    made.role, made.content, made.started_at = "attachment", [block], item.started_at
    made.ended_at = item.started_at
    return made


def of_feedback(feedback: dict[str, Any]) -> Iterator[Item]:
    """What somebody thinks of a run: an event in it."""
    run_id, trace = _text(feedback.get("run_id")), _text(feedback.get("trace_id"))
    if run_id is None and trace is None:
        return
    left_out = ("event", "trace_id", "run_id", "id", "created_at", "modified_at")
    said = {key: value for key, value in feedback.items() if key not in left_out and value is not None}
    yield Item(
        trace=trace or run_id or "",
        key=f"feedback-{feedback.get('id') or event_name(str(feedback.get('key')))}",
        kind="event",
        parent=run_id or trace,
        name="langsmith.feedback",
        started_at=seconds(feedback.get("created_at")),
        final=True,
        fields=said,
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _first(value: Any) -> Any:
    found = value[0] if isinstance(value, list) and value else {}
    return found if isinstance(found, dict | list) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
