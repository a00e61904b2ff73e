"""OpenTelemetry's spans and log records as items: what each instrumentation's names mean. Pure.

Rule 1: the first convention that a span follows decides what it is: OpenInference, GenAI, Traceloop, Vercel's AI SDK,
        Logfire's own, MCP. A span of none of them is a step.
Rule 2: older and newer names of the same thing are read alike; where both are there, the newer one counts.
Rule 3: usage is that of model calls. An agent's span repeats its children's, and is not counted.
Rule 4: what has no place in an item stays beside it in ``attributes``.

Sources: https://opentelemetry.io/docs/specs/semconv/gen-ai/, https://github.com/Arize-ai/openinference/tree/main/spec,
https://docs.logfire.pydantic.dev, and what the instrumentations' current releases were seen to send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..model.fit import json_bytes
from ..model.mend import event_name
from .digests import digest
from .items import ROOT, Item, Kind, error_of, usage_of
from .otlp import CLIENT, ERROR, Attributes, LogRecord, Span, SpanEvent
from .said import Message, answer, flattened, flattened_messages, last_user_text, messages, parsed, text_of

OPENINFERENCE: dict[str, Kind] = {
    "LLM": "model_call",
    "TOOL": "tool",
    "AGENT": "agent",
    "RETRIEVER": "tool",
    "EMBEDDING": "tool",
    "RERANKER": "tool",
    "CHAIN": "step",
    "GUARDRAIL": "step",
    "EVALUATOR": "step",
    "PROMPT": "step",
}
OPERATIONS: dict[str, Kind] = {
    "chat": "model_call",
    "generate_content": "model_call",
    "text_completion": "model_call",
    "responses": "model_call",
    "completion": "model_call",
    "call_llm": "model_call",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "embeddings": "tool",
    "retrieval": "tool",
    "rerank": "tool",
}
TRACELOOP: dict[str, Kind] = {"workflow": "step", "task": "step", "agent": "agent", "tool": "tool"}
VERCEL_AGENTS = ("ai.generateText", "ai.streamText", "ai.generateObject", "ai.streamObject", "ai.agent")
NO_TOOL = ("(merged tools)", "(merged)")  # google-adk's summary of several calls at once
MCP_CALL = "tools/call"
MCP_SCOPE = "opentelemetry.instrumentation.mcp"  # Traceloop's: both sides of a call are tools of its own kind
TEXT, TEXT_AT = "tracewatch.text", "tracewatch.text.at"  # text that streams: what follows the first so many characters
MOST_ATTRIBUTES, MOST_ATTRIBUTE = 16 * 1024, 4096  # bytes of what has no place of its own, in a run's header
MOST_EVENTS = 100  # of one span
MOST_LINKS = 100

INPUT = ("gen_ai.usage.input_tokens", "llm.token_count.prompt", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens",
         "ai.usage.inputTokens", "ai.usage.promptTokens")  # fmt: skip
OUTPUT = ("gen_ai.usage.output_tokens", "llm.token_count.completion", "gen_ai.usage.completion_tokens",
          "llm.usage.completion_tokens", "ai.usage.outputTokens", "ai.usage.completionTokens")  # fmt: skip
CACHE_READ = ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens",
              "gen_ai.usage.details.cache_read_tokens", "gen_ai.usage.details.cached_tokens",
              "gen_ai.usage.details.cache_read_input_tokens", "llm.token_count.prompt_details.cache_read",
              "llm.usage.cache_read_input_tokens", "gen_ai.usage.cache_read_tokens",
              "ai.usage.inputTokenDetails.cacheReadTokens", "ai.usage.cachedInputTokens")  # fmt: skip
CACHE_WRITE = ("gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens",
               "gen_ai.usage.cache_write_input_tokens", "gen_ai.usage.cache_creation_input_tokens",
               "gen_ai.usage.details.cache_write_tokens", "gen_ai.usage.details.cache_creation_tokens",
               "gen_ai.usage.details.cache_creation_input_tokens", "llm.token_count.prompt_details.cache_write",
               "llm.usage.cache_creation_input_tokens", "gen_ai.usage.cache_write_tokens",
               "ai.usage.inputTokenDetails.cacheWriteTokens")  # fmt: skip
REASONING = ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.details.reasoning_tokens",
             "gen_ai.usage.reasoning_tokens", "gen_ai.usage.details.thoughts_tokens",
             "llm.token_count.completion_details.reasoning", "llm.usage.reasoning_tokens",
             "ai.usage.outputTokenDetails.reasoningTokens", "ai.usage.reasoningTokens")  # fmt: skip
COST_PARTS = ("llm.cost.prompt", "llm.cost.completion", "gen_ai.usage.input_cost", "gen_ai.usage.output_cost")
COST = ("operation.cost", "gen_ai.usage.cost", "llm.cost.total", "cost_usd")
MODEL = ("gen_ai.response.model", "gen_ai.request.model", "llm.response.model_name", "llm.model_name",
         "llm.request.model_name", "ai.response.model", "ai.model.id")  # fmt: skip
ARGUMENTS = ("gen_ai.tool.call.arguments", "tool_arguments", "ai.toolCall.args", "ai.toolCall.input", "tool.parameters")
RESULT = ("gen_ai.tool.call.result", "tool_response", "ai.toolCall.result", "ai.toolCall.output")
SESSION = ("session.id", "gen_ai.conversation.id", "traceloop.association.properties.session_id",
           "traceloop.association.properties.thread_id", "ai.telemetry.metadata.sessionId")  # fmt: skip
USER = ("user.id", "enduser.id", "traceloop.association.properties.user_id", "ai.telemetry.metadata.userId")
_MAPPED = re.compile(
    r"(gen_ai\.(input|output)\.messages|gen_ai\.system_instructions|gen_ai\.tool\.(definitions|call\..*|json_schema)"
    r"|gen_ai\.(aggregated_)?usage\..*|gen_ai\.(prompt|completion)\..*|gen_ai\.(operation|agent|tool)\.name"
    r"|gen_ai\.(request|response)\.model|gen_ai\.event\.(start|end)_time|llm\.(input|output)_messages\..*"
    r"|llm\.(tools|token_count|usage|cost)\..*|llm\.(invocation_parameters|model_name)"
    r"|(input|output)\.(value|mime_type)"
    r"|pydantic_ai\.all_messages|final_result|model_request_parameters|model_name|agent_name|operation\.cost"
    r"|logfire\.(json_schema|span_type|pending_parent_id|msg_template)|raw_input|response|events|usage|model_settings"
    r"|gen_ai\.task\.(input|output)|llm\.(prompts|choices)\..*|retrieval\.documents\..*|reranker\.\w+_documents\..*"
    r"|traceloop\.entity\.(input|output|name)|traceloop\.span\.kind|ai\.(prompt|response|usage|toolCall)(\..*)?"
    r"|openinference\.span\.kind|code\..*|tool\.(name|description))"
)


def items(found: Iterable[Span | LogRecord]) -> Iterator[Item]:
    """The items of what one request brought. What says nothing of an agent's run gives none."""
    for one in found:
        yield from (of_span(one) if isinstance(one, Span) else of_record(one))


def is_left_out(span: Span) -> bool:
    """Whether a span is a tool's own machinery: MCP's talk but for calls, and Codex's thousands of internal spans."""
    method = span.attributes.get("mcp.method.name")
    if isinstance(method, str) and method != MCP_CALL:
        return True
    return str(span.resource.get("service.name", "")).lower().startswith("codex")


def of_span(span: Span) -> Iterator[Item]:
    """The item that a span is, and those of its events that are more than what the model was told and said."""
    if not span.trace_id or not span.span_id or is_left_out(span):
        return
    attributes = span.attributes
    for event in span.events:  # the newest convention and the oldest put what was said into events
        if event.name in _SAID_IN_EVENTS:
            attributes = {**event.attributes, **attributes}
    pending = attributes.get("logfire.span_type") == "pending_span"
    key, parent = span.span_id, span.parent_id
    if pending:
        key, parent = span.parent_id, _pending_parent(attributes)
    if not key:
        return
    kind, name = _kind(span, attributes)
    final = not pending and span.ended_at is not None
    if TEXT in attributes and not final:
        yield from _streamed(span, attributes)
        return
    item = Item(trace=span.trace_id, key=key, kind=kind, parent=parent or ROOT, name=name, final=final)
    item.started_at, item.ended_at = span.started_at, span.ended_at if final else None
    if attributes.get("mcp.method.name") == MCP_CALL or (kind == "tool" and span.scope == MCP_SCOPE):
        item.within = "tool"
    _READERS.get(kind, _read_step)(item, span, attributes)
    if final and span.status == ERROR:
        item.error = _error(span, attributes)
    more = list(_keep(item, span, attributes))
    yield item
    yield from more
    yield from _events(span, key)


def _streamed(span: Span, attributes: Attributes) -> Iterator[Item]:
    """A piece of the text of a model call that has not ended, as the module of ``tracewatch run`` sends it."""
    text, at = attributes[TEXT], attributes.get(TEXT_AT)
    if isinstance(text, str) and isinstance(at, int) and not isinstance(at, bool) and at >= 0:
        parent = span.parent_id or ROOT
        yield Item(trace=span.trace_id, key=span.span_id, kind="model_call", parent=parent, more=(at, text))


def _pending_parent(attributes: Attributes) -> str:
    parent = attributes.get("logfire.pending_parent_id")
    return parent.lower() if isinstance(parent, str) and parent.strip("0") else ROOT


# --- what it is --------------------------------------------------------------------------------------------------


def _kind(span: Span, attributes: Attributes) -> tuple[Kind, str]:
    """What a span is, and what it is called."""
    said = _first(attributes, ("gen_ai.agent.name", "agent_name", "agent.name"))
    kind = _known_kind(span, attributes)
    if kind == "agent":
        named = said or _first(attributes, ("traceloop.entity.name", "ai.telemetry.functionId"))
        if not named and str(attributes.get("logfire.msg_template", "")).startswith("Agent run"):
            named = attributes.get("name")
        return kind, str(named or span.name.removeprefix("invoke_agent ") or "agent")
    if kind == "tool":
        names = ("gen_ai.tool.name", "tool.name", "ai.toolCall.name", "mcp.tool.name", "traceloop.entity.name")
        named = _first(attributes, names)
        if not named and str(attributes.get("logfire.msg_template", "")).startswith("Function"):
            named = attributes.get("name")
        if named in NO_TOOL:
            return "step", str(named)
        return kind, str(named or span.name.rpartition(f"{MCP_CALL} ")[2].removeprefix("execute_tool ") or "tool")
    message = attributes.get("logfire.msg")
    return kind, str(message if isinstance(message, str) and "{" in span.name else span.name) or "span"


def _known_kind(span: Span, attributes: Attributes) -> Kind:
    openinference = attributes.get("openinference.span.kind")
    if isinstance(openinference, str):
        return "agent" if _is_langchain_agent(span, attributes) else OPENINFERENCE.get(openinference.upper(), "step")
    if attributes.get("mcp.method.name") == MCP_CALL:
        return "tool"
    operation = attributes.get("gen_ai.operation.name")
    if isinstance(operation, str):
        return OPERATIONS.get(operation, "step")
    traceloop = attributes.get("traceloop.span.kind")
    if isinstance(traceloop, str):
        return TRACELOOP.get(traceloop, "step")
    if "llm.request.type" in attributes:
        return "model_call"
    if (vercel := _vercel_kind(str(attributes.get("ai.operationId") or span.name.partition(" ")[0]))) is not None:
        return vercel
    template = str(attributes.get("logfire.msg_template", ""))
    if span.ended_at is None and " " in span.name and span.name.partition(" ")[0] in OPERATIONS:
        return OPERATIONS[span.name.partition(" ")[0]]  # it will say so itself when it ends, as google-adk does
    if template.startswith("Function: ") or attributes.get("gen_ai.tool.name"):
        return "tool"
    return "agent" if template.startswith("Agent run") else "step"


def _vercel_kind(operation: str) -> Kind | None:
    if operation.endswith((".doGenerate", ".doStream")):
        return "model_call"
    if operation == "ai.toolCall" or operation.endswith((".doEmbed", ".doRerank")):
        return "tool"
    return "agent" if operation in VERCEL_AGENTS else None


def _is_langchain_agent(span: Span, attributes: Attributes) -> bool:
    about = parsed(attributes.get("metadata"))
    return isinstance(about, dict) and about.get("lc_agent_name") == span.name and bool(span.name)


def _first(attributes: Attributes, names: Iterable[str]) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) not in (None, "")), None)


# --- what it says -------------------------------------------------------------------------------------------------


def _read_call(item: Item, span: Span, attributes: Attributes) -> None:
    item.input = _asked(span, attributes)
    said = answer(_answered(span, attributes))
    content = said.get("content")
    if isinstance(content, str):
        item.text = content or None
    else:
        item.content = content
    item.thinking, item.tool_calls = said.get("thinking"), said.get("tool_calls")
    model = _first(attributes, MODEL)
    item.model = str(model) if model else None
    item.usage = _usage(attributes)
    cost = _first(attributes, COST)
    if cost is None and any(name in attributes for name in COST_PARTS):
        cost = sum(part for name in COST_PARTS if isinstance(part := attributes.get(name), int | float))
    item.cost = cost if isinstance(cost, int | float) else None
    item.tools = _tools(attributes)
    item.params = _params(attributes)
    item.task = last_user_text(item.input)
    _whose(item, attributes)


def _read_tool(item: Item, span: Span, attributes: Attributes) -> None:
    call_id = _first(attributes, ("gen_ai.tool.call.id", "ai.toolCall.id", "tool_call.id", "tool.id"))
    item.arguments, item.result = parsed(_first(attributes, ARGUMENTS)), parsed(_first(attributes, RESULT))
    if item.arguments is None:
        item.arguments = _given(attributes, "input")
    if item.result is None:
        item.result = _given(attributes, "output")
    if item.result is None:
        names = ("retrieval.documents.", "reranker.output_documents.")
        item.result = next((found for name in names if (found := documents(attributes, name))), None)
    item.arguments = _unwrapped(item.arguments, "inputs", "input_str")
    if "traceloop.entity.output" in attributes:
        item.result = _unwrapped(item.result, "output")
    for name in ("data", "kwargs"):  # LangChain's tool message, in either of its forms
        if isinstance(item.result, dict) and isinstance(data := item.result.get(name), dict) and "content" in data:
            call_id = call_id or data.get("tool_call_id")
            item.result = data["content"]
    for event in span.events:
        if event.name == "gen_ai.tool.message" and item.arguments is None:
            item.arguments = parsed(event.attributes.get("content"))
            call_id = call_id or event.attributes.get("id")
        elif event.name == "gen_ai.choice" and item.result is None:
            item.result = text_of(event.attributes.get("message"))
    item.tool_call_id = call_id if isinstance(call_id, str) and call_id else None


def _read_agent(item: Item, span: Span, attributes: Attributes) -> None:
    asked = _asked(span, attributes)
    item.task = last_user_text(asked)
    if item.task is None:
        item.task = _task_in(_given(attributes, "input"))
    if item.final:
        item.result = attributes.get("final_result")
        if item.result is None:
            texts = [one["content"] for one in _answered(span, attributes) or () if one.get("role") == "assistant"]
            item.result = next((text for text in reversed(texts) if isinstance(text, str) and text.strip()), None)
        if item.result is None:
            found = [one for one in messages(_given(attributes, "output")) or () if one.get("role") == "assistant"]
            item.result = answer(found[-1:]).get("content")
    _whose(item, attributes)
    item.fields = {key: span.resource[key] for key in ("service.name",) if key in span.resource}
    model = _first(attributes, (*MODEL, "model_name"))
    if model:
        item.fields["model"] = model


def _read_step(item: Item, span: Span, attributes: Attributes) -> None:
    item.arguments, item.result = _given(attributes, "input"), _given(attributes, "output")
    if item.parent == ROOT:
        item.task = _task_in(item.arguments) if not isinstance(item.arguments, str) else None
        _whose(item, attributes)
    kind = _first(attributes, ("sdk_span_type", "gen_ai.operation.name", "traceloop.span.kind"))
    if not kind:
        kind = {"CHAIN": "chain", "GUARDRAIL": "guardrail"}.get(str(attributes.get("openinference.span.kind")), "span")
    item.fields = {"kind": str(kind)[:64]}


def _task_in(given: Any) -> str | None:
    """What an agent was asked, in whatever it was given."""
    given = _unwrapped(given, "inputs")
    if isinstance(given, dict) and isinstance(given.get("args"), list) and "kwargs" in given:  # Traceloop's
        words = [*given["args"], *(given["kwargs"].values() if isinstance(given["kwargs"], dict) else ())]
        given = next((one for one in words if isinstance(one, str)), given)
    return last_user_text(messages(given)) or (given if isinstance(given, str) else None)


_READERS: dict[Kind, Any] = {"model_call": _read_call, "tool": _read_tool, "agent": _read_agent}


def _whose(item: Item, attributes: Attributes) -> None:
    about = parsed(attributes.get("metadata"))
    thread = about.get("thread_id") if isinstance(about, dict) else None
    session, user = _first(attributes, SESSION) or thread, _first(attributes, USER)
    item.session_id = str(session) if session else None
    item.user_id = str(user) if user else None
    tags = parsed(_first(attributes, ("tag.tags", "logfire.tags", "langfuse.tags")))
    item.tags = [str(tag) for tag in tags] if isinstance(tags, list) and tags else None


def _given(attributes: Attributes, way: str) -> Any:
    """``input`` or ``output`` as OpenInference, Traceloop and Logfire's openai-agents write it."""
    return parsed(_first(attributes, (f"{way}.value", f"traceloop.entity.{way}", way)))


def _unwrapped(value: Any, *keys: str) -> Any:
    """What stands in an object that only wraps it, as Traceloop's does."""
    for key in keys:
        if isinstance(value, dict) and value.get(key) not in (None, "", {}):
            return parsed(value[key])
    return value


def _asked(span: Span, attributes: Attributes) -> list[Message] | None:
    """What a model, or an agent, was asked."""
    found = messages(attributes.get("gen_ai.input.messages"))
    if found is None:
        found = flattened_messages(attributes, "llm.input_messages.")
    for name in ("pydantic_ai.all_messages", "gen_ai.prompt", "ai.prompt.messages", "ai.prompt", "raw_input"):
        if found is None and attributes.get(name):
            found = messages(attributes[name])
    if found is None:
        found = _indexed(attributes, "gen_ai.prompt.") or _texts(attributes, "llm.prompts.", "prompt.text", "user")
    if found is None and isinstance(text := attributes.get("gen_ai.prompt"), str) and text:
        found = [{"role": "user", "content": text}]
    if found is None:
        found = _told(span.events) or _told_in(attributes.get("events"))
    system = messages([{"role": "system", "parts": parsed(attributes.get("gen_ai.system_instructions"))}])
    if system and system[0]["content"] and not (found and found[0]["role"] == "system"):
        found = [*system, *(found or ())]
    return found


def _answered(span: Span, attributes: Attributes) -> list[Message] | None:
    """What a model answered."""
    found = messages(attributes.get("gen_ai.output.messages"))
    if found is None:
        found = flattened_messages(attributes, "llm.output_messages.")
    if found is None:
        found = _indexed(attributes, "gen_ai.completion.")
    if found is None:
        found = _texts(attributes, "llm.choices.", "completion.text", "assistant")
    if found is None and (said := attributes.get("gen_ai.completion")):
        found = messages(said) or [{"role": "assistant", "content": said}]
    if found is None and any(key.startswith("ai.response.") for key in attributes):
        found = messages([_of_vercel(attributes)])
    if found is None:
        found = _choices((event.name, event.attributes) for event in span.events)
    if found is None:
        events = [one for one in _listed(attributes.get("events")) if isinstance(one, dict)]
        found = _choices((str(one.get("event.name")), one) for one in events)
    if found is None and isinstance(response := parsed(attributes.get("response")), dict):
        found = messages(response.get("output"))
    return found


def _of_vercel(attributes: Attributes) -> Message:
    """What a model answered, as Vercel's AI SDK up to 6 says it."""
    text = attributes.get("ai.response.text") or attributes.get("ai.response.object")
    parts: list[Any] = [{"type": "text", "text": text}] if text else []
    if isinstance(thought := attributes.get("ai.response.reasoning"), str) and thought:
        parts.append({"type": "reasoning", "text": thought})
    for file in _listed(attributes.get("ai.response.files")):
        if isinstance(file, dict):
            parts.append({"type": "file", **{key: value for key, value in file.items() if key != "type"}})
    return {"role": "assistant", "content": parts, "tool_calls": parsed(attributes.get("ai.response.toolCalls"))}


def _texts(attributes: Attributes, prefix: str, name: str, role: str) -> list[Message] | None:
    """OpenInference's prompts and choices of completions: ``llm.prompts.0.prompt.text``."""
    found = [one[name] for one in flattened(attributes, prefix) if isinstance(one.get(name), str)]
    return [{"role": role, "content": text} for text in found] or None


def documents(attributes: Attributes, prefix: str) -> list[dict[str, Any]] | None:
    """The documents that were found: ``retrieval.documents.0.document.content``."""
    found = [
        {key.removeprefix("document."): parsed(value) for key, value in one.items()}
        for one in flattened(attributes, prefix)
    ]
    return found or None


def _listed(value: Any) -> list[Any]:
    value = parsed(value)
    return value if isinstance(value, list) else []


def _indexed(attributes: Attributes, prefix: str) -> list[Message] | None:
    """Traceloop's ``gen_ai.prompt.0.role``, ``gen_ai.prompt.0.content``, ``gen_ai.completion.0.tool_calls.0.name``."""
    raw: dict[int, dict[str, Any]] = {}
    for key, value in attributes.items():
        index, _, name = key[len(prefix) :].partition(".") if key.startswith(prefix) else ("", "", "")
        if not (index.isascii() and index.isdigit() and len(index) < 6 and name):
            continue
        one = raw.setdefault(int(index), {})
        if name.startswith("tool_calls."):
            number, _, part = name.removeprefix("tool_calls.").partition(".")
            one.setdefault("calls", {}).setdefault(number, {})[part] = value
        else:
            one[name] = value
    ordered = [one for _, one in sorted(raw.items())]
    return messages(
        [{"role": "assistant", **one, "tool_calls": list(one.get("calls", {}).values())} for one in ordered]
    )


_TOLD = {"gen_ai.system.message": "system", "gen_ai.user.message": "user", "gen_ai.assistant.message": "assistant"}
_TOLD |= {"gen_ai.tool.message": "tool"}


def _told(events: Iterable[SpanEvent]) -> list[Message] | None:
    told = [{**one.attributes, "role": _TOLD[one.name]} for one in events if one.name in _TOLD]
    return messages(told) if told else None


def _told_in(events: Any) -> list[Message] | None:
    told = [one for one in _listed(events) if isinstance(one, dict) and one.get("event.name") in _TOLD]
    return messages([{**one, "role": _TOLD[one["event.name"]]} for one in told]) if told else None


def _choices(events: Iterable[tuple[str, dict[str, Any]]]) -> list[Message] | None:
    found: list[Message] = []
    for name, about in events:
        if name != "gen_ai.choice":
            continue
        message = parsed(about.get("message"))
        if isinstance(message, dict):
            found += messages([{"role": "assistant", **message}]) or []
        else:
            found += messages([{"role": "assistant", "content": message or about.get("content")}]) or []
    return found or None


def _usage(attributes: Attributes) -> dict[str, int] | None:
    read, write = _first_count(attributes, CACHE_READ), _first_count(attributes, CACHE_WRITE)
    given, reasoning = _first_count(attributes, INPUT), _first_count(attributes, REASONING)
    raw = parsed(attributes.get("gen_ai.usage.raw"))
    if isinstance(raw, dict):
        inside = raw.get("input_tokens_details") or raw.get("prompt_tokens_details")
        outside = raw.get("output_tokens_details") or raw.get("completion_tokens_details")
        if read is None and isinstance(inside, dict):
            read = inside.get("cached_tokens")
        if reasoning is None and isinstance(outside, dict):
            reasoning = outside.get("reasoning_tokens")
    beside = isinstance(given, int) and (_number(read) + _number(write)) > given
    output = _first_count(attributes, OUTPUT)
    return usage_of(given, output, cache_read=read, cache_write=write, reasoning=reasoning, cache_beside=beside)


def _first_count(attributes: Attributes, names: Iterable[str]) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _tools(attributes: Attributes) -> list[Any] | None:
    tools = parsed(_first(attributes, ("gen_ai.tool.definitions", "ai.prompt.tools")))
    if isinstance(tools, list) and tools:
        return [parsed(tool) for tool in tools]
    flat = [parsed(attributes[key]) for key in attributes if re.fullmatch(r"llm\.tools\.\d+\.tool\.json_schema", key)]
    return flat or None


def _params(attributes: Attributes) -> dict[str, Any] | None:
    prefix = "gen_ai.request."
    params = {key[len(prefix) :]: value for key, value in attributes.items() if key.startswith(prefix)}
    params.pop("model", None)
    given = parsed(attributes.get("llm.invocation_parameters"))
    if isinstance(given, dict):
        params |= {key: value for key, value in given.items() if key not in ("tools", "model", "model_name", "_type")}
    return {key: value for key, value in params.items() if value is not None} or None


def _error(span: Span, attributes: Attributes) -> Any:
    for event in reversed(span.events):
        if event.name == "exception" and event.attributes.get("exception.message") is not None:
            kind = str(event.attributes.get("exception.type") or "").rpartition(".")[2] or None
            trace = event.attributes.get("exception.stacktrace")
            return error_of(event.attributes["exception.message"], kind, trace if isinstance(trace, str) else None)
    given = parsed(attributes.get("error"))
    if isinstance(given, dict) and given.get("message"):
        data = given.get("data")
        inner = data.get("error") if isinstance(data, dict) else None
        return {**error_of(given["message"]), **({"detail": inner} if inner else {})}
    kind = attributes.get("error.type")
    result = parsed(_first(attributes, RESULT))
    words = result.get("error") if isinstance(result, dict) else None
    words = words or attributes.get("error.message") or span.status_message
    if words in (None, "", kind):
        return {"type": str(kind or "Error"), "message": str(words or kind or "failed")}
    return error_of(words, str(kind) if kind and kind != "_OTHER" else None)


# --- what else there is -------------------------------------------------------------------------------------------


def _keep(item: Item, span: Span, attributes: Attributes) -> Iterator[Item]:
    """Keep what has no place of its own; an item of its own for what is too large for a run's header."""
    rest = {key: value for key, value in attributes.items() if not _MAPPED.fullmatch(key)}
    rest = {key: value for key, value in rest.items() if value is not None}
    if span.scope:
        rest["otel.scope.name"] = span.scope
    if span.name != item.name:
        rest["otel.span.name"] = span.name
    if span.kind == CLIENT and item.kind == "step":
        rest["otel.span.kind"] = "client"
    others = [(trace, one) for trace, one in span.links[:MOST_LINKS] if trace and trace != span.trace_id]
    if others:  # of a run; elsewhere they stand beside it only
        item.links = [{"trace": trace, "key": one, "kind": "span"} for trace, one in others]
    if span.links:
        rest["otel.links"] = [{"trace_id": trace, "span_id": one} for trace, one in span.links[:MOST_LINKS]]
    if item.kind != "agent":  # what is large of it goes beside the log
        if rest:
            item.fields["attributes"] = rest
        return
    size = 0
    kept: dict[str, Any] = {}
    for key, value in rest.items():
        weight = json_bytes(value) + len(key)
        if weight <= MOST_ATTRIBUTE and size + weight <= MOST_ATTRIBUTES:
            kept[key] = value
            size += weight
    if kept:
        item.fields["attributes"] = kept
    if item.final and len(rest) > len(kept):  # what every list of runs need not have
        large = {key: value for key, value in rest.items() if key not in kept}
        more = Item(
            trace=item.trace, key=f"{item.key}.attributes", kind="event", parent=item.key, name="otel.attributes"
        )
        more.final, more.started_at, more.fields = True, item.ended_at, {"attributes": large}
        yield more


_SAID_IN_EVENTS = ("gen_ai.client.inference.operation.details", "gen_ai.content.prompt", "gen_ai.content.completion")
_TOLD_ALREADY = (*_TOLD, *_SAID_IN_EVENTS, "gen_ai.choice", "exception")


def _events(span: Span, key: str) -> Iterator[Item]:
    """Evaluation results, agents that were paused and resumed, and what else happened within a span."""
    for number, event in enumerate(span.events[:MOST_EVENTS]):
        if event.name in _TOLD_ALREADY:
            continue
        yield _event(span.trace_id, f"{key}.e{number}", key, event.name, event.at, event.attributes)


def _event(trace: str, key: str, parent: str | None, name: str, at: float | None, attributes: Attributes) -> Item:
    known = name.startswith(("gen_ai.", "agent."))
    item = Item(trace=trace, key=key, kind="event", parent=parent, started_at=at, final=True)
    item.name = event_name(name) if known else "otel.event"
    item.fields = {"name": name, "attributes": attributes}
    return item


def of_record(record: LogRecord) -> Iterator[Item]:
    """The items of a record of a log: what a model call was told and said, and events of GenAI's conventions."""
    if not record.trace_id or not record.name.startswith("gen_ai."):
        return
    body = record.body if isinstance(record.body, dict) else {}
    attributes = {**body, **record.attributes}
    if record.name == "gen_ai.client.inference.operation.details":
        if not record.span_id:
            return
        span = Span(record.trace_id, record.span_id, "", "", 0, None, None, attributes, record.resource, record.scope)
        item = Item(trace=record.trace_id, key=record.span_id, kind="model_call")
        _read_call(item, span, attributes)
        yield item
        return
    # Records have no id of their own: one that comes again is the same where all of it is
    key = f"{record.span_id or 'log'}.{record.name}.{digest([record.at, attributes])}"
    yield _event(record.trace_id, key, record.span_id or None, record.name, record.at, attributes)
