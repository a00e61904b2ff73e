"""LangSmith's bodies and runs: what they are read as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.langsmith_bodies import (
    BOUNDARY,
    MULTIPART,
    body,
    ended,
    metadata,
    multipart,
    part,
    parts_of,
    run,
    run_id,
)
from tests.ingest.test_hostile import JSON
from tests.log.helpers import open_any
from tracewatch.ingest.ingester import Ingester, Process
from tracewatch.ingest.interrupts import questions
from tracewatch.ingest.items import ROOT, Item
from tracewatch.ingest.langsmith import BadLangSmith, read, read_batch, read_run
from tracewatch.ingest.runs import items, seconds
from tracewatch.ingest.store import LogStore

TYPE = MULTIPART["content-type"]


def one(found: dict[str, Any], kind: str = "patch") -> Item:
    """The first item of a run."""
    return next(iter(items(read_batch(orjson.dumps({kind: [found]})))))


# --- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["header", "type", "nowhere"])
def test_a_multipart_body_gives_what_a_batch_gives(length: str) -> None:
    began = run("planner", inputs={"messages": [["user", "hi"]]}, extra=metadata(lc_agent_name="planner"))
    over = ended(began, outputs={"output": "done"}, error=None)
    found = read(body([began], [over], length=length), TYPE)
    assert [(each.kind, each.run) for each in found.operations] == [("post", began), ("patch", over)]
    batch = read_batch(orjson.dumps({"post": [began], "patch": [over]}))
    assert list(items(batch)) == list(items(found))


def test_an_attachment_is_read_whatever_stands_in_it() -> None:
    data = b"\x89PNG\r\n\r\n--" + BOUNDARY.encode()[:-1] + bytes(range(256))
    whole = multipart(parts_of("post", run("seen")), part(f"attachment.{run_id('seen')}.img", data, length="type"))
    (found,) = read(whole, TYPE).operations
    (attachment,) = found.attachments
    assert (attachment.name, attachment.media_type, attachment.data) == ("img", "image/png", data)
    message = list(items(read(whole, TYPE)))[1]
    assert (message.role, message.key, message.parent) == ("attachment", f"{run_id('seen')}.img", run_id("seen"))


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"runs": []}', "application/json"),
        (b"", TYPE),
        (b"nothing", TYPE),
        (body([run("a")])[:-20], TYPE),
        (body([run("a")]), "multipart/form-data"),
    ],
)
def test_what_is_not_langsmiths_is_refused(raw: bytes, content_type: str) -> None:
    with pytest.raises(BadLangSmith):
        read(raw, content_type)


def test_a_part_that_cannot_be_read_costs_only_itself() -> None:
    nonsense = [part("post", {}), part("what.is.this", 1), part(f"post.{run_id('b')}", [1]), part("feedback.x", 3)]
    broken = part(f"post.{run_id('a')}.inputs", {}).replace(b"{}", b"{,")
    found = read(multipart(parts_of("post", run("a")), broken, *nonsense), TYPE)
    assert [each.run["id"] for each in found.operations] == [run_id("a")]
    assert found.unreadable == 5


def test_one_run_is_posted_and_patched_by_itself() -> None:
    began = run("a", "tool", "root")
    assert read_run(orjson.dumps(began)).operations[0].kind == "post"
    patched = read_run(orjson.dumps({"end_time": 1796012748570}), run_id("a")).operations[0]
    assert (patched.kind, patched.run["id"]) == ("patch", run_id("a"))
    for raw in (b"3", b"{}", b"x"):
        with pytest.raises(BadLangSmith):
            read_run(raw)


@settings(max_examples=60)
@given(st.binary(max_size=300), st.sampled_from([TYPE, "application/json", "multipart/form-data; boundary=b"]))
def test_any_body_is_read_or_refused(raw: bytes, content_type: str) -> None:
    for whole in (raw, multipart(part("post.a", raw)), b"--b\r\n" + raw + b"\r\n--b--"):
        try:
            list(items(read(whole, content_type)))
        except BadLangSmith:
            pass


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from([*run("a"), "inputs", "outputs", "extra", "error", "events", "serialized",
                                        "end_time", "parent_run_id"]), JSON), JSON)  # fmt: skip
def test_a_run_of_any_values_is_read(values: dict[str, Any], inner: Any) -> None:
    for run_type in ("llm", "tool", "chain", inner):
        for extra in ({}, {"metadata": inner}, {"metadata": {"usage_metadata": inner}, "invocation_params": inner}):
            given_run = {"extra": extra, "run_type": run_type, **values, "id": run_id("a")}
            try:
                raw = orjson.dumps({"post": [given_run, {**given_run, "outputs": {"generations": [[inner]]}}]})
            except TypeError:
                return
            list(items(read_batch(raw)))


# --- runs ----------------------------------------------------------------------------------------------------------


def test_a_call_that_overtakes_its_node_says_that_there_is_one() -> None:
    call = run("call", "llm", "main", "model", tags=["seq:step:1"])
    node, item = items(read_batch(orjson.dumps({"post": [call]})))
    assert (node.kind, node.key, node.parent, node.final) == ("step", run_id("model"), run_id("main"), False)
    assert (item.kind, item.parent) == ("model_call", node.key)
    (alone,) = items(read_batch(orjson.dumps({"post": [{**call, "tags": []}]})))
    assert alone.parent == node.key


def test_what_is_an_agent() -> None:
    node = metadata(lc_agent_name="expert", ls_integration="langchain_create_agent", langgraph_node="tools")
    path = ["langgraph", "pregel", "CompiledStateGraph"]
    graph: dict[str, Any] = {"serialized": {"lc": 1, "type": "not_implemented", "id": path}}
    plain = metadata(ls_integration="langgraph", langgraph_node="tools")
    state: dict[str, Any] = {"inputs": {"messages": [["user", "hi"]]}}
    for found, kind in (
        (run("main"), "agent"),
        (run("main", "llm"), "model_call"),
        (run("step", "chain", "main"), "step"),
        (run("expert", "chain", "main", extra=node), "agent"),
        (run("expert", "chain", "main", extra=node, tags=["graph:step:1"]), "step"),
        (run("model", "chain", "main", extra=node), "step"),
        (run("sub", "chain", "main", extra=plain, **graph), "agent"),
        (run("sub", "chain", "main", extra=plain, **state), "agent"),
        (run("sub", "chain", "main", extra=plain), "step"),
        (run("RunnableSequence", "chain", "main", extra=plain, **state), "step"),
        (run("call_model", "chain", "main", extra=plain, tags=["seq:step:1"], **state), "step"),
        (run("find", "retriever", "main"), "tool"),
        (run("ask", "prompt", "main"), "step"),
        (run("new", "of a kind to come", "main"), "step"),
    ):
        assert one(found, "post").kind == kind, found["name"]


def test_a_run_that_says_little_is_placed_by_what_it_says() -> None:
    bare = {"id": run_id("b"), "end_time": 1796012748570}
    assert (one(bare).trace, one(bare).parent, one(bare).kind) == (run_id("b"), None, None)
    by_order = {**bare, "dotted_order": run("b", "tool", "a")["dotted_order"]}
    assert (one(by_order).trace, one(by_order).parent) == (run_id("a"), run_id("a"))
    assert one({**bare, "trace_id": run_id("b")}).parent == ROOT
    assert one({**bare, "trace_id": run_id("a"), "parent_run_id": run_id("x")}).parent == run_id("x")


def test_a_model_call_of_langchain() -> None:
    usage = {
        "input_tokens": 110,
        "output_tokens": 20,
        "input_token_details": {"cache_read": 50, "cache_creation": 0, "ephemeral_5m_input_tokens": 7},
        "output_token_details": {"reasoning": 5},
        "total_cost": 0.25,
    }
    said = {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}], "type": "ai"}
    said["tool_calls"] = [{"name": "look", "args": {"q": 1}, "id": "c1", "type": "tool_call"}]
    message = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "AIMessage"], "kwargs": said}
    human = {"lc": 1, "type": "constructor", "id": ["x", "HumanMessage"], "kwargs": {"content": "Is it?"}}
    tools = [{"type": "function", "function": {"name": "look"}}]
    params = {"model": "m-1", "tools": tools, "temperature": 0.5, "stop": None, "_type": "openai-chat"}
    found = run("ChatOpenAI", "llm", "main", inputs={"messages": [[human]]}, extra={**metadata(ls_model_name="m-1")})
    found["extra"]["invocation_params"] = params
    found["extra"]["metadata"]["usage_metadata"] = usage
    found["events"] = [{"name": "start"}, {"name": "new_token", "time": f"{found['start_time'][:-12]}600000+00:00"}]
    item = one(ended(found, outputs={"generations": [[{"text": "Yes.", "message": message}]]}))
    assert (item.text, item.thinking, item.model, item.cost) == ("Yes.", "hm", "m-1", 0.25)
    assert item.tool_calls == [{"id": "c1", "name": "look", "arguments": {"q": 1}}]
    assert item.input == [{"role": "user", "content": "Is it?"}]
    assert (item.tools, item.params) == (tools, {"temperature": 0.5})
    assert item.usage == {
        "input_tokens": 110,
        "output_tokens": 20,
        "cache_read_tokens": 50,
        "cache_write_tokens": 7,
        "reasoning_tokens": 5,
    }
    assert item.fields["first_token_s"] == 0.5


OPENAI = {
    "choices": [{"message": {"role": "assistant", "content": "Hi."}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
}
ANTHROPIC = {
    "role": "assistant",
    "content": [{"type": "text", "text": "Hi."}],
    "usage": {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0},
}
RESPONSES = {
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}],
    "usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}},
}


@pytest.mark.parametrize("outputs", [OPENAI, ANTHROPIC, RESPONSES])
def test_a_model_call_of_a_wrapped_client(outputs: dict[str, Any]) -> None:
    inputs = {"messages": [{"role": "user", "content": "Hello"}], "model": "m-2", "temperature": 1, "stream": True}
    item = one(ended(run("call", "llm", "main", inputs=inputs), outputs=outputs))
    assert (item.text, item.model, item.params) == ("Hi.", "m-2", {"temperature": 1})
    assert item.usage is not None
    assert (item.usage["input_tokens"], item.usage["cache_read_tokens"], item.usage["output_tokens"]) == (9, 4, 2)


@pytest.mark.parametrize(
    ("inputs", "outputs", "asked", "said"),
    [
        ({"prompts": ["Say."]}, {"generations": [[{"text": "Said."}]]}, "Say.", "Said."),
        ({"input": "Say.", "instructions": "Short."}, {"output": "Said."}, "Say.", "Said."),
        ({"contents": [{"role": "user", "parts": [{"text": "Say."}]}]}, {"message": "Said."}, "Say.", "Said."),
        ({"question": "Say."}, {"answer": "Said."}, "Say.", "Said."),
        ({"a": 1}, {"b": 2}, None, None),
    ],
)
def test_a_model_call_of_any_form(inputs: Any, outputs: Any, asked: str | None, said: str | None) -> None:
    item = one(ended(run("call", "llm", "main", inputs=inputs), outputs=outputs))
    assert item.input is not None
    assert item.input[-1]["content"] == (asked or inputs)
    assert (item.text, item.content) == (said, None if said else outputs)


@pytest.mark.anyio
@pytest.mark.parametrize("repeated", [True, False])
async def test_the_prompts_of_a_loop_are_written_once(tmp_path: Path, repeated: bool) -> None:
    """Also where an end does not repeat what a start has said, as in JavaScript."""
    log = await open_any(f"memory:///{tmp_path / 'log.db'}")
    try:
        ingester = Ingester(LogStore(log))
        said = [["user", "a" * 1000]]
        for number in range(100):
            call = run(f"call {number}", "llm", "main", inputs={"messages": list(said)})
            over = ended(call, outputs={"choices": [{"message": {"role": "assistant", "content": f"so {number}"}}]})
            if not repeated:
                del over["inputs"]
            for kind, one_of in (("post", call), ("patch", over)):
                found = list(items(read_batch(orjson.dumps({kind: [one_of]}))))
                await ingester.take("ls", found, process=Process("p", "p"))
            said += [["ai", f"so {number}"], ["user", f"and {number}?"]]
        trace = f"ls-{run_id('main')}"
        size = sum([len(orjson.dumps(event)) async for _, event in LogStore(log).events(trace, 0)])
        assert size < 200_000  # of 1.3 MB
        prompt = orjson.loads(await log.prompt(trace, run_id("call 99")))["prompt"]
        assert (prompt["exact"], prompt["lost"], len(prompt["input"])) == (True, [], 199)
    finally:
        await log.close()


def test_a_model_call_that_has_begun_says_nothing() -> None:
    item = one(run("call", "llm", "main", inputs={"messages": [["user", "hi"]]}, outputs={}), "post")
    assert (item.text, item.content, item.final, item.input) == (None, None, False, [{"role": "user", "content": "hi"}])


def test_a_tool_and_its_message() -> None:
    message = {"content": "sunny", "type": "tool", "tool_call_id": "c1", "status": "success"}
    in_javascript = {"lc": 1, "type": "constructor", "id": ["langchain_core", "ToolMessage"], "kwargs": message}
    for output in (message, in_javascript):
        item = one(ended(run("look", "tool", "main", inputs={"q": 1}), outputs={"output": output}))
        assert (item.arguments, item.result, item.tool_call_id, item.error) == ({"q": 1}, "sunny", "c1", None)
    handled = one(ended(run("look", "tool", "main"), outputs={"output": {**message, "status": "error"}}))
    assert handled.error == {"type": "ToolError", "message": "sunny"}
    assert one(ended(run("look", "tool", "main", inputs={"input": "q"}), outputs={"output": [1]})).arguments == "q"


PYTHONS = "\n\nTraceback (most recent call last):\n  x"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (f"ZeroDivisionError('division by zero'){PYTHONS}", "ZeroDivisionError", "division by zero"),
        (f"ToolFault('no'){PYTHONS.strip()}", "ToolFault", "no"),
        ("no luck\n\nRangeError: no luck\n    at file:///a.mjs:1:2", "RangeError", "no luck"),
        ("Error: out of luck", "Error", "out of luck"),
        ("something", "Error", "something"),
    ],
)
def test_an_error_without_its_traceback(text: str, kind: str, message: str) -> None:
    item = one(ended(run("look", "tool", "main"), error=text))
    assert (item.error["type"], item.error["message"]) == (kind, message)


def test_an_agent_says_what_it_is_about() -> None:
    extra = metadata(thread_id="t-1", user_id="u", lc_agent_name="planner", env="prod", langgraph_step=3)
    found = run("graph", extra=extra, tags=["demo", "graph:step:1", "langsmith:hidden"])
    found["inputs"] = {"messages": [{"role": "user", "content": "Why?"}]}
    item = one(ended(found, outputs={"messages": [["user", "Why?"], ["ai", "Because."]]}))
    assert (item.name, item.task, item.result) == ("planner", "Why?", "Because.")
    assert (item.session_id, item.user_id, item.tags) == ("t-1", "u", ["demo"])
    assert item.fields == {"project": "default", "sdk": "langsmith-py", "env": "prod"}


def test_a_run_that_was_cancelled_was_stopped_and_has_no_less_an_error() -> None:
    item = one(ended(run("main"), error="CancelledError()Traceback (most recent call last):\n"))
    assert (item.status, item.error["type"]) == ("stopped", "CancelledError")


def test_a_state_of_many_messages_is_shown_by_its_last() -> None:
    state = {"messages": [["user", "a" * 1000]] * 500, "x": 1}
    item = one(ended(run("model", "chain", "main", inputs=state), outputs=state))
    assert item.arguments["messages"] == 500
    assert item.arguments["x"] == 1
    assert item.arguments["last"].startswith("user: aaa")
    assert len(orjson.dumps(item.result)) < 500
    command: dict[str, Any] = {"output": [{"graph": None, "update": {"messages": [["ai", "So."]]}, "goto": []}]}
    assert one(ended(run("model", "chain", "main"), outputs=command)).result == {
        "messages": 1,
        "last": "assistant: So.",
    }


def test_feedback_is_an_event_of_its_run() -> None:
    said = {"id": "f1", "trace_id": run_id("main"), "run_id": run_id("a"), "key": "good", "score": 1, "comment": None}
    (item,) = items(read(multipart(part("feedback.f1", said)), TYPE))
    assert (item.kind, item.trace, item.parent, item.key) == ("event", run_id("main"), run_id("a"), "feedback-f1")
    assert item.fields == {"key": "good", "score": 1}


def test_a_time_is_read_as_the_clients_write_it() -> None:
    assert seconds("2026-11-30T04:25:48.563002Z") == seconds("2026-11-30T04:25:48.563002") == 1796012748.563002
    assert seconds(1796012748570) == 1796012748.57
    many: list[Any] = ["yesterday", None, True, -1, 1e300, [], "9999999-01-01"]
    for nonsense in many:
        assert seconds(nonsense) is None


# --- interrupts ----------------------------------------------------------------------------------------------------

PYTHON = (
    "GraphInterrupt((Interrupt(value={'question': 'Deploy?', 'options': ['yes', 'no']}, id='cf1', "
    "response_schema=None), Interrupt(value='And now?', id='cf2')))"
)


def test_an_interrupt_is_a_question() -> None:
    first, second = questions(PYTHON)
    assert (first.key, first.text, first.options, first.is_more) == ("cf1", "Deploy?", ["yes", "no"], False)
    assert (second.key, second.text, second.options) == ("cf2", "And now?", None)
    javascript = '[{"id": "cf1", "value": {"question": "Deploy?", "why": 1}}]\n\nGraphInterrupt: [{"id"…\n    at x'
    (found,) = questions(javascript)
    assert (found.key, found.text, found.is_more) == ("cf1", "Deploy?", True)
    asked = "{'action_requests': [{'name': 'deploy', 'args': {'to': 1}}]}"
    (found,) = questions(f"GraphInterrupt((Interrupt(value={asked}, id='x'),))")
    assert found.text == 'Allow deploy({"to":1})?'


@pytest.mark.parametrize("text", ["GraphInterrupt(", "GraphInterrupt(((((", "NodeInterrupt(<x at 0x1>)", PYTHON[:90]])
def test_an_interrupt_that_cannot_be_read_is_a_question_all_the_same(text: str) -> None:
    (found,) = questions(text)
    assert found.key.startswith("interrupt-")
    assert found.text


def test_other_errors_ask_nothing() -> None:
    assert questions("ValueError('GraphInterrupt(')") == []


def test_an_interrupted_run_has_not_failed() -> None:
    tool, question, *_ = items(read_batch(orjson.dumps({"patch": [ended(run("d", "tool", "main"), error=PYTHON)]})))
    assert (tool.error, tool.final, tool.fields["interrupted_by"]) == (None, True, ["cf1", "cf2"])
    assert (question.kind, question.key, question.parent, question.name) == (
        "question",
        "cf1",
        run_id("main"),
        "Deploy?",
    )
    assert question.fields["answerable"] == "terminal"
    agent = one(ended(run("main"), error=PYTHON))
    assert (agent.final, agent.status, agent.error) == (False, "waiting", None)
    handoff = one(ended(run("node", "chain", "main"), error="ParentCommand(Command(goto='x'))"))
    assert (handoff.error, handoff.status) == (None, "stopped")
