"""Spans of conventions of which there are no recordings, in the forms that their instrumentations' sources say."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.tracing import ABOVE, SPAN, TRACE, body_of, pairs
from tracewatch.ingest.items import Item
from tracewatch.ingest.otlp import BadOtlp, read
from tracewatch.ingest.spans import items


def all_of(name: str, attributes: dict[str, Any] | None = None, **more: Any) -> list[Item]:
    return list(items(read("traces", orjson.dumps(body_of(name, attributes or {}, **more)), json=True)))


def item_of(name: str, attributes: dict[str, Any], **more: Any) -> Item:
    return all_of(name, attributes, **more)[0]


def event(name: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "timeUnixNano": "1796000000500000000", "attributes": pairs(attributes)}


# --- Traceloop ---------------------------------------------------------------------------------------------------


def test_traceloop_decorators_and_kinds() -> None:
    given = json.dumps({"args": ["What is the weather?"], "kwargs": {}})
    kind = {"traceloop.entity.name": "planner", "traceloop.entity.input": given, "traceloop.entity.output": '"sunny"'}
    agent = item_of("planner.agent", {"traceloop.span.kind": "agent", **kind})
    assert (agent.kind, agent.name, agent.task) == ("agent", "planner", "What is the weather?")
    tool = item_of("look.tool", {"traceloop.span.kind": "tool", **kind, "traceloop.entity.name": "look"})
    assert (tool.kind, tool.name, tool.result) == ("tool", "look", "sunny")
    for other in ("workflow", "task", "server", "session", "unknown"):
        assert item_of(f"x.{other}", {"traceloop.span.kind": other, **kind}).kind == "step"


def test_traceloop_langchain_tools_and_agents() -> None:
    given = {"input_str": "{'city': 'Paris'}", "tags": [], "metadata": {}, "inputs": {"city": "Paris"}, "kwargs": {}}
    message = {"lc": 1, "type": "constructor", "kwargs": {"content": "sunny", "tool_call_id": "call_1"}}
    gave = {"output": message, "kwargs": {}}
    attributes = {"traceloop.span.kind": "tool", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look"}
    for one, other in (("gen_ai.tool.call.arguments", "gen_ai.tool.call.result"), ("traceloop.entity.input",) * 2):
        more = {one: json.dumps(given), other.replace("input", "output"): json.dumps(gave)}
        tool = item_of("execute_tool look", {**attributes, "traceloop.entity.output": json.dumps(gave), **more})
        assert (tool.arguments, tool.result, tool.tool_call_id) == ({"city": "Paris"}, "sunny", "call_1")
    graph = {"inputs": {"messages": [{"role": "user", "content": "Hello?"}]}, "tags": []}
    agent = {"traceloop.span.kind": "workflow", "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "graph"}
    found = item_of("graph.workflow", {**agent, "traceloop.entity.input": json.dumps(graph)})
    assert (found.kind, found.name, found.task) == ("agent", "graph", "Hello?")


def test_traceloop_model_calls_old_and_new() -> None:
    old = {
        "llm.request.type": "chat",
        "gen_ai.system": "OpenAI",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Hello?",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.finish_reason": "tool_calls",
        "gen_ai.completion.0.tool_calls.0.id": "call_1",
        "gen_ai.completion.0.tool_calls.0.name": "look",
        "gen_ai.completion.0.tool_calls.0.arguments": '{"city": "Paris"}',
        "gen_ai.usage.prompt_tokens": 10,
        "gen_ai.usage.completion_tokens": 5,
        "gen_ai.usage.cache_read_input_tokens": 4,
    }
    call = item_of("openai.chat", old)
    assert (call.kind, call.model) == ("model_call", "gpt-4o")
    assert call.input == [{"role": "user", "content": "Hello?"}]
    assert call.tool_calls == [{"id": "call_1", "name": "look", "arguments": {"city": "Paris"}}]
    assert call.usage == {"input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 4}
    said = [{"role": "assistant", "parts": [{"type": "text", "content": "Hi"}], "finish_reason": "stop"}]
    new = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hello?"}]}]),
        "gen_ai.output.messages": json.dumps(said),
    }
    call = item_of("openai.chat", new)
    assert (call.input, call.text) == ([{"role": "user", "content": "Hello?"}], "Hi")


def test_traceloop_mcp_tools_of_both_sides_are_one() -> None:
    for scope, within in (("opentelemetry.instrumentation.mcp", "tool"), ("mine", None)):
        assert item_of("look.tool", {"traceloop.span.kind": "tool"}, scope=scope).within == within


# --- Vercel's AI SDK up to 6 --------------------------------------------------------------------------------------


def test_vercel_up_to_six() -> None:
    functions = {"operation.name": "ai.streamText planner", "ai.operationId": "ai.streamText"}
    agent = item_of(
        "ai.streamText", {**functions, "ai.telemetry.functionId": "planner", "ai.prompt": '{"prompt": "Hi"}'}
    )
    assert (agent.kind, agent.name) == ("agent", "planner")
    asked = [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]
    call = {
        "ai.operationId": "ai.streamText.doStream",
        "ai.model.id": "gpt-5",
        "ai.prompt.messages": json.dumps(asked),
        "ai.prompt.tools": ['{"type": "function", "name": "look", "parameters": {}}'],
        "ai.response.text": "I will look.",
        "ai.response.reasoning": "hm",
        "ai.response.toolCalls": '[{"toolCallId": "c1", "toolName": "look", "input": {"city": "Paris"}}]',
        "ai.usage.inputTokens": 10,
        "ai.usage.outputTokens": 5,
        "ai.usage.inputTokenDetails.cacheReadTokens": 3,
        "ai.usage.inputTokenDetails.cacheWriteTokens": 2,
        "ai.usage.outputTokenDetails.reasoningTokens": 1,
    }
    found = item_of("ai.streamText.doStream", call)
    assert (found.kind, found.model, found.text, found.thinking) == ("model_call", "gpt-5", "I will look.", "hm")
    assert found.input == [{"role": "user", "content": "Hello?"}]
    assert found.tool_calls == [{"id": "c1", "name": "look", "arguments": {"city": "Paris"}}]
    assert [tool["name"] for tool in found.tools or ()] == ["look"]
    assert found.usage == {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_tokens": 3,
        "cache_write_tokens": 2,
        "reasoning_tokens": 1,
    }
    older = {"ai.usage.promptTokens": 7, "ai.usage.completionTokens": 2, "ai.response.object": '{"a": 1}'}
    found = item_of("ai.generateObject.doGenerate", older)
    assert (found.kind, found.usage) == ("model_call", {"input_tokens": 7, "output_tokens": 2})
    tool = {"ai.toolCall.name": "look", "ai.toolCall.id": "c1", "ai.toolCall.args": "{}", "ai.toolCall.result": '"sun"'}
    found = item_of("ai.toolCall", tool)
    assert (found.kind, found.name, found.tool_call_id, found.result) == ("tool", "look", "c1", "sun")
    assert [item_of(name, {}).kind for name in ("ai.embed.doEmbed", "ai.embedMany", "ai.rerank.doRerank")] == [
        *("tool", "step", "tool")
    ]


# --- OpenInference ------------------------------------------------------------------------------------------------


def test_openinference_flattened() -> None:
    call = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "claude",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.contents.0.message_content.type": "text",
        "llm.input_messages.0.message.contents.0.message_content.text": "Hello?",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "look",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"city": "Paris"}',
        "llm.token_count.prompt": 10,
        "llm.token_count.completion": 5,
        "llm.token_count.prompt_details.cache_write": 2,
        "llm.cost.prompt": 0.25,
        "llm.cost.completion": 0.5,
        "llm.invocation_parameters": '{"temperature": 0.7}',
        "session.id": "s1",
    }
    found = item_of("ChatCompletion", call)
    assert (found.kind, found.model, found.cost, found.session_id) == ("model_call", "claude", 0.75, "s1")
    assert (found.input, found.params) == ([{"role": "user", "content": "Hello?"}], {"temperature": 0.7})
    assert found.tool_calls == [{"id": "c1", "name": "look", "arguments": {"city": "Paris"}}]
    assert found.usage == {"input_tokens": 10, "output_tokens": 5, "cache_write_tokens": 2}
    old = {"llm.output_messages.0.message.role": "assistant"}
    old |= {"llm.output_messages.0.message.function_call_name": "look"}
    old |= {"llm.output_messages.0.message.function_call_arguments_json": '{"city": "Paris"}'}
    found = item_of("x", {"openinference.span.kind": "LLM", **old})
    assert found.tool_calls == [{"name": "look", "arguments": {"city": "Paris"}}]
    texts = {"llm.prompts.0.prompt.text": "def fib(n):", "llm.choices.0.completion.text": " return n"}
    found = item_of("x", {"openinference.span.kind": "LLM", **texts})
    assert (found.input, found.text) == ([{"role": "user", "content": "def fib(n):"}], " return n")


def test_openinference_finds_documents() -> None:
    attributes = {
        "openinference.span.kind": "RETRIEVER",
        "input.value": "weather",
        "retrieval.documents.0.document.id": "d1",
        "retrieval.documents.0.document.content": "sunny",
        "retrieval.documents.0.document.score": 0.5,
        "retrieval.documents.1.document.content": "rainy",
    }
    found = item_of("retrieve", attributes)
    assert (found.kind, found.arguments) == ("tool", "weather")
    assert found.result == [{"id": "d1", "content": "sunny", "score": 0.5}, {"content": "rainy"}]


# --- GenAI, old and new -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write", ["cache_creation.input_tokens", "cache_write.input_tokens", "cache_creation_input_tokens"]
)
def test_genai_names_old_and_new(write: str) -> None:
    usage = {"gen_ai.usage.input_tokens": 10, f"gen_ai.usage.{write}": 4, "gen_ai.usage.cache_read.input_tokens": 2}
    found = item_of("chat x", {"gen_ai.operation.name": "chat", **usage})
    assert found.usage == {"input_tokens": 10, "cache_read_tokens": 2, "cache_write_tokens": 4}
    beside = {"gen_ai.usage.input_tokens": 1, f"gen_ai.usage.{write}": 4, "gen_ai.usage.cache_read.input_tokens": 20}
    found = item_of("chat x", {"gen_ai.operation.name": "chat", **beside})
    assert (found.usage or {})["input_tokens"] == 25  # as Anthropic counts


def test_genai_prompt_and_completion_in_attributes_and_events() -> None:
    asked, said = '[{"role": "user", "content": "Hello?"}]', '[{"role": "assistant", "content": "Hi"}]'
    chat = {"gen_ai.operation.name": "chat", "gen_ai.system": "openai"}
    events = [event("gen_ai.content.prompt", {"gen_ai.prompt": asked})]
    events.append(event("gen_ai.content.completion", {"gen_ai.completion": said}))
    for found in (
        item_of("chat x", {**chat, "gen_ai.prompt": asked, "gen_ai.completion": said}),
        item_of("chat x", chat, events=events),
        item_of("chat x", {**chat, "gen_ai.prompt": "Hello?", "gen_ai.completion": "Hi"}),
    ):
        assert (found.input, found.text) == ([{"role": "user", "content": "Hello?"}], "Hi")
    assert len(all_of("chat x", chat, events=events)) == 1


def test_evaluations_and_pauses_are_kept() -> None:
    result = {"gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": 0.5}
    names = ("gen_ai.evaluation.result", "gen_ai.agent.paused", "gen_ai.agent.resumed", "something else")
    found = all_of("chat x", {"gen_ai.operation.name": "chat"}, events=[event(name, result) for name in names])
    assert [(one.name, one.parent) for one in found[1:]] == [(name, SPAN) for name in (*names[:3], "otel.event")]
    assert all(one.fields["attributes"] == result for one in found[1:])
    records = [
        {"traceId": TRACE, "spanId": span, "eventName": names[0], "timeUnixNano": "5", "attributes": pairs({"n": n})}
        for span in (SPAN, "")
        for n in (1, 2)
    ]
    logs = orjson.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]})
    kept = list(items(read("logs", logs, json=True)))
    assert [one.parent for one in kept] == [SPAN, SPAN, None, None]
    assert len({one.key for one in kept}) == 4
    assert list(items(read("logs", logs, json=True))) == kept


def test_links_to_other_traces() -> None:
    links = [{"traceId": "f" * 32, "spanId": "e" * 16}, {"traceId": TRACE, "spanId": "e" * 16}]
    found = item_of("invoke_agent x", {"gen_ai.operation.name": "invoke_agent"}, links=links)
    assert found.links == [{"trace": "f" * 32, "key": "e" * 16, "kind": "span"}]
    assert len(found.fields["attributes"]["otel.links"]) == 2


# --- OTLP's own forms ---------------------------------------------------------------------------------------------


def test_json_ids_enums_and_numbers() -> None:
    body = body_of("x", {"n": 2**60, "f": 0.5})
    span = body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    base64_ids = {"traceId": "CvdlGRbNQ92ESOshHIAxnA==", "spanId": "t61rcWkgMzE=", "parentSpanId": "APBnqgupArc="}
    spellings: list[dict[str, Any]] = [
        {"traceId": TRACE.upper()},
        base64_ids,
        {"kind": 3, "status": {"code": 2}},
        {"kind": "SPAN_KIND_CLIENT", "status": {"code": "STATUS_CODE_ERROR"}},
        {"startTimeUnixNano": 1796000000000000000, "endTimeUnixNano": 1796000001000000000},
    ]
    for more in spellings:
        made = orjson.dumps(body | {"resourceSpans": [{"scopeSpans": [{"spans": [span | more]}]}]})
        (found,) = items(read("traces", made, json=True))
        assert (found.trace, found.key, found.parent) == (TRACE, SPAN, ABOVE)
        assert (found.started_at, found.ended_at) == (1796000000.0, 1796000001.0)
        assert (found.error is not None) == ("status" in more)
        assert found.fields["attributes"]["n"] == str(2**60)
    strange: list[dict[str, Any]] = [
        {"traceId": "no base64!"},
        {"spanId": "%%%"},
        {"startTimeUnixNano": "x"},
        {"kind": []},
    ]
    for more in strange:
        made = orjson.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span | more]}]}]})
        assert len(list(items(read("traces", made, json=True)))) == 1


def test_text_that_is_no_unicode() -> None:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    span = resource.scope_spans.add().spans.add(
        trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN), name="n____n"
    )
    span.attributes.add(key="text").value.string_value = "a____b"
    span.attributes.add(key="raw").value.bytes_value = b"\xff\xfe"
    values = span.attributes.add(key="list").value.array_value.values
    values.add().string_value = "c____d"
    body = request.SerializeToString().replace(b"____", b"\xff\xfe\xc0\x80")
    (found,) = items(read("traces", body, json=False))
    kept = found.fields["attributes"]
    assert (found.name, kept["text"], kept["list"]) == ("n����n", "a����b", ["c����d"])
    assert kept["raw"] == "//4="
    text = orjson.dumps(body_of("n____n", {"text": "lone"})).replace(b"lone", b"\\ud800 \xff")
    (found,) = items(read("traces", text, json=True))
    assert found.fields["attributes"]["text"] == "� �"
    for bad in (body[:-3], b"\xff\xff", b'{"resourceSpans": [', b"{" * 10_000):
        for as_json in (True, False):
            with pytest.raises(BadOtlp):
                list(read("traces", bad, json=as_json))
