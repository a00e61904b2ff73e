"""Model calls: what they were asked comes back to the byte, each text is stored once, and a reader sees each once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.test_handles import events, new_trace, state
from tests.model.test_prompt import put_together
from tracewatch.client import conversation
from tracewatch.client.trace import ModelCall, Trace


@pytest.fixture
def t() -> Trace:
    return new_trace()


def prompt(t: Trace, call: ModelCall) -> dict[str, Any]:
    found = put_together(dict(state(t).messages), call.id)
    assert found is not None
    told = found.to_json()
    assert told["exact"] is True and told["lost"] == [], told
    return told


def asked(t: Trace, messages: Any, answer: Any = "", **more: Any) -> ModelCall:
    """A call whose whole input comes back as it was given."""
    with t.llm("m-1", messages, **more) as m:
        m.answer(answer)
    given = messages if isinstance(messages, list) else [messages]
    assert orjson.dumps(prompt(t, m)["input"]) == orjson.dumps(given)
    return m


def shown(t: Trace) -> list[tuple[str, Any]]:
    """The transcript."""
    return [(m["role"], m["content"]) for m in state(t).messages.values() if m["role"] != "attachment"]


def stored_times(t: Trace, text: str) -> int:
    return sum(orjson.dumps(event).count(text.encode()) for event in events(t))


def test_a_conversation_stores_each_text_once(t: Trace) -> None:
    history: list[Any] = [{"role": "system", "content": "You fix bugs in Python programs. " * 20}]
    tools = [{"name": f"tool{n}", "description": f"does {n}, " * 30} for n in range(20)]
    params = {"temperature": 0.5, "stop": ["a rather long end"] * 10}
    calls: list[tuple[ModelCall, list[Any]]] = []
    with t:
        for n in range(40):
            history.append({"role": "user", "content": f"question {n}: " + "why? " * 20})
            with t.llm("m-1", messages=history, params=params, tools=tools) as m:
                if n % 2:
                    m.stream(f"answer {n}: ")
                    m.stream("so. " * 20)
                else:
                    m.answer(f"answer {n}: " + "so. " * 20)
                m.usage(input_tokens=10, output_tokens=2)
            calls.append((m, orjson.loads(orjson.dumps(history))))
            history.append({"role": "assistant", "content": f"answer {n}: " + "so. " * 20})
    for m, whole in calls:
        told = prompt(t, m)
        assert orjson.dumps(told["input"]) == orjson.dumps(whole)
        assert (told["params"], told["tools"]) == (params, tools)
    assert [role for role, _ in shown(t)] == ["system", *["user", "assistant"] * 40]
    assert all(stored_times(t, item["content"]) == 1 for item in history if "answer" not in item["content"])
    assert stored_times(t, tools[7]["description"]) == 1 and stored_times(t, "a rather long end") == 10
    text = len(orjson.dumps(history)) + len(orjson.dumps(tools))
    assert sum(map(len, map(orjson.dumps, events(t)))) < 40 * 2000 + 1.5 * text
    requests = [orjson.dumps(m.get("request", {})) for m in state(t).messages.values()]
    assert max(map(len, requests)) < 1000
    assert state(t).usage == {"input_tokens": 400, "output_tokens": 80}


FORMS: dict[str, list[Any]] = {
    "chat": [
        {"role": "developer", "content": "Be brief, whatever the question is about."},
        {"role": "user", "content": [{"type": "text", "text": "Where is it set? And why there of all places?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "grep", "arguments": '{"pattern": "login"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a.py:1: login\nb.py:7: def login(): it is long enough"},
        {"role": "user", "content": "ok", "name": "ann"},
    ],
    "responses": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where is it set, and why?"}]},
        {"type": "reasoning", "id": "rs1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "grep", "arguments": '{"pattern":"login"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "a.py:1: login, and much more than that"},
    ],
    "anthropic": [
        {"role": "user", "content": "Where is it set?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I will look."},
                {"type": "tool_use", "id": "c1", "name": "grep", "input": {"pattern": "login"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "a.py:1: login"}]},
                {"type": "text", "text": "and hurry", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ],
    "gemini": [
        {"role": "user", "parts": [{"text": "Where is it set?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "grep", "args": {"pattern": "login"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "grep", "response": {"result": "a.py:1: login"}}}]},
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_known_forms(t: Trace, form: str) -> None:
    items = FORMS[form]
    with t:
        for end in range(1, len(items) + 1):
            asked(t, items[:end])
        asked(t, [*items, {"role": "user", "content": "and now?"}])
    tools = [content for role, content in shown(t) if role == "tool"]
    assert [tool["tool_name"] for tool in tools] == ["grep"]
    if form != "gemini":
        assert tools[0]["arguments"] == {"pattern": "login"}
    users = [content for role, content in shown(t) if role == "user"]
    assert len(users) == len(set(map(orjson.dumps, users))), "each is seen once"
    texts = [part for part in ("Where is it set", "a.py:1: login") if stored_times(t, part) != 1]
    assert texts in ([], ["Where is it set"]), "a description may repeat a short text"


def test_what_was_recorded_by_hand_is_found(t: Trace) -> None:
    long = "a.py:1: login " * 100
    with t:
        t.message("system", "You fix bugs.")
        t.message("user", "Fix the login")
        with t.message("assistant") as said:
            said.stream("I will ")
            said.stream("look.")
        with t.tool_call("grep", {"pattern": "login"}, tool_call_id="c1") as call:
            call.result(long)
        with t.tool_call("count") as other:
            other.result({"lines": [1, 2], "ä": None})
        before = len(state(t).messages)
        m = asked(
            t,
            [
                {"role": "system", "content": "You fix bugs."},
                {"role": "user", "content": "Fix the login"},
                {"role": "assistant", "content": "I will look.", "tool_calls": [{"id": "c1"}]},
                {"role": "tool", "tool_call_id": "c1", "content": long},
                {"role": "tool", "tool_call_id": "c2", "content": '{"lines": [1, 2], "\\u00e4": null}'},
            ],
        )
    assert len(state(t).messages) == before + 1
    assert stored_times(t, long) == 1
    items = state(t).messages[m.id]["request"]["input"]
    assert [item.get("message_id", "value" in item) for item in items[:3]] == [*list(state(t).messages)[:2], True]
    assert items[3]["parts"] == {"/content": {"message_id": call.id, "at": "/content/result"}}


def test_the_same_words_again_are_another_message(t: Trace) -> None:
    history: list[Any] = [{"role": "user", "content": "begin"}]
    with t:
        for _ in range(3):
            asked(t, history, "done")
            history += [{"role": "assistant", "content": "done"}, {"role": "user", "content": "go on"}]
        asked(t, history)
        asked(t, history)  # a second try says nothing new
    assert [content for role, content in shown(t) if role == "user"] == ["begin", "go on", "go on", "go on"]


def test_what_an_agent_rewrites_stands_in_the_request_only(t: Trace) -> None:
    history: list[Any] = [{"role": "system", "content": "It is 10:00. " * 10}]
    with t:
        for n in range(6):
            history.append({"role": "user", "content": f"question {n}"})
            asked(t, history, f"answer {n}")
            history.append({"role": "assistant", "content": f"answer {n}"})
            history[0] = {"role": "system", "content": f"It is 10:0{n}. " * 10}
        history[1] = {"role": "user", "content": "[what was said before, in short] " * 400}
        asked(t, history)
        asked(t, [history[0], *history[6:]])  # a window that moves
    roles = [role for role, _ in shown(t)]
    assert roles.count("system") == 1 and roles.count("user") == 6
    assert sum(len(orjson.dumps(m.get("request", 0))) for m in state(t).messages.values()) < 10_000
    asked(t, history[3:5] + history[1:3])


def test_conversations_side_by_side(t: Trace) -> None:
    one, other = ([{"role": "user", "content": f"{name} begins here"}] for name in ("one", "other"))
    with t:
        for n in range(4):
            for history in (one, other):
                asked(t, history, f"answer {n}")
                history += [{"role": "assistant", "content": f"answer {n}"}, {"role": "user", "content": f"next {n}"}]
    assert len([role for role, _ in shown(t) if role == "user"]) == 8


def test_odd_values(t: Trace) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    cycle: list[Any] = []
    cycle.append(cycle)
    with t:
        asked(t, "a text by itself")
        asked(t, {"role": "user", "content": "an object by itself"})
        asked(t, [])
        asked(t, [None, 7, 1.5, True, [], {}, "", {"message_id": "x"}, {"value": 1}, {"input_of": 3}, {"list_of": []}])
        asked(
            t, [{"role": "user", "content": ""}, {"content": "no role"}, {"role": 7, "content": "x"}, {"role": "user"}]
        )
        asked(t, [{"role": "tool", "content": None}, {"role": "user", "content": [3, {"type": "tool_result"}]}])
        for odd in (Odd(), [Odd()], cycle, {1: {2}}, b"bytes", 10**400, float("nan"), ["\ud800"], iter([1, 2]), object):
            with t.llm(odd, odd, system=odd, params=odd, tools=odd) as m:  # type: ignore[arg-type]
                m.answer(odd)
            assert prompt(t, m)["tools"] is not None
        with t.llm("m-1") as m:
            pass
        assert m._message["role"] == "assistant" and "input" not in prompt(t, m)


def test_a_system_prompt_apart_stands_first(t: Trace) -> None:
    with t:
        system = [{"type": "text", "text": "You fix bugs.", "cache_control": {"type": "ephemeral"}}]
        with t.llm("m-1", [{"role": "user", "content": "Why?"}], system=system) as m:
            m.answer([{"type": "text", "text": "So."}])
    assert prompt(t, m)["input"] == [{"role": "system", "content": system}, {"role": "user", "content": "Why?"}]
    assert shown(t) == [("system", system), ("user", "Why?"), ("assistant", [{"type": "text", "text": "So."}])]


def test_answers_in_the_forms_of_apis(t: Trace) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "grep", "arguments": "{}"}}
    given = {"role": "assistant", "content": None, "tool_calls": [call]}
    with t:
        m = asked(t, [{"role": "user", "content": "Why?"}], given)
        asked(t, [{"role": "user", "content": "Why?"}, given, {"role": "tool", "tool_call_id": "c1", "content": "x"}])
        asked(t, ["now as Gemini"], {"role": "model", "parts": [{"text": "So."}]})
    message = state(t).messages[m.id]
    assert (message["content"], message["tool_calls"], message["status"]) == ("", [call], "complete")
    assert shown(t)[-1] == ("assistant", [{"text": "So."}])


def test_large_parts_are_attached(t: Trace) -> None:
    tools = [{"name": f"tool{n}", "description": "x" * 3000} for n in range(120)]
    middle = [{"role": "user", "content": "early"}, {"type": "reasoning", "encrypted_content": "y" * 300_000}]
    with t:
        m = asked(t, [*middle, {"role": "user", "content": "late"}], tools=tools)
        again = asked(t, [*middle, {"role": "user", "content": "late"}, "more"], tools=[*tools[1:], {"name": "new"}])
        for n in range(1500):
            t.message("user", f"by hand {n}")
        many = asked(t, [{"role": "user", "content": f"by hand {n}"} for n in range(1500)])
    assert prompt(t, m)["tools"] == tools
    assert prompt(t, again)["tools"] == [*tools[1:], {"name": "new"}]
    assert stored_times(t, "y" * 1000) <= 300 and stored_times(t, "tool77") == 1
    assert all(len(body) <= 256 * 1024 for body in t._outbox.take(1, 100_000, 10**9))
    assert len(orjson.dumps(state(t).messages[many.id]["request"])) < 50_000


def test_a_message_that_changes_later_is_told(t: Trace) -> None:
    with t:
        with t.message("user") as u:
            u.stream("Why?")
        m = asked(t, [{"role": "user", "content": "Why?"}])
        u.set(content="Why not?")
        later = put_together(dict(state(t).messages), m.id)
        assert later is not None and later.exact is False
        asked(t, [{"role": "user", "content": "Why not?"}])
        asked(t, [{"role": "user", "content": "Why?"}])


def test_start_and_end_and_tasks(t: Trace) -> None:
    m = t.llm("m-1", "Why?").start()
    m.stream("So.")
    m.end()

    async def task(number: int) -> None:
        async with t.llm("m-1", [{"role": "user", "content": f"Why {number}?"}]) as one:
            await asyncio.sleep(0)
            one.stream(f"So {number}.")

    async def tasks() -> None:
        await asyncio.gather(*map(task, range(5)))

    asyncio.run(tasks())
    threads = [threading.Thread(target=asked, args=(t, ["first", f"thread {n}"])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (m.id in state(t).messages, prompt(t, m)["input"]) == (True, ["Why?"])
    never = t.llm("m-1", "never entered")
    assert never.id not in state(t).messages


def test_a_history_that_the_log_has_lost_is_told_again(t: Trace) -> None:
    with t:
        asked(t, [{"role": "user", "content": "Why?"}], "So.")
        t._outbox.producer = "another"
        m = asked(t, [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
    assert len(state(t).messages) == 5 and len(state(t).messages[m.id]["request"]["input"]) == 2


def test_a_resumed_trace_tells_only_what_is_new() -> None:
    t = new_trace()
    t._outbox.spec["resume"] = True
    with t:
        asked(t, [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}, "And then?"])
    assert [content for role, content in shown(t) if role == "user"] == ["And then?"]


def test_what_is_remembered_is_bounded(t: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MOST_TEXTS", 100)
    monkeypatch.setattr(conversation, "MOST_ITEMS", 50)
    known = t._journal.conversation
    with t:
        for n in range(300):
            t.message("user", f"{n}")
            with t.tool_call("x", tool_call_id=f"{n}"):
                pass
            if n % 60 == 0:
                asked(t, [{"role": "user", "content": f"{m}"} for m in range(max(0, n - 30), n)])
    assert len(known._places) <= 100 and len(known._tool_calls) <= 100 and len(known._waiting) <= 200
    assert sum(len(call.input) for call in known._calls) <= 50


_TEXTS = st.sampled_from(["a", "go on", "x" * 70, "ä\n", ""])
_VALUES = st.recursive(
    _TEXTS | st.none() | st.integers(-5, 5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "content", "a/b"]), inner),
    max_leaves=5,
)
_ITEMS = _TEXTS | st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "model", "system"])},
    optional={"content": _VALUES, "tool_call_id": st.sampled_from(["1", "2"]), "parts": st.lists(_VALUES, max_size=2)},
)


@given(st.lists(st.tuples(st.lists(_ITEMS, max_size=6), _TEXTS, st.integers(0, 6)), max_size=6))
def test_any_inputs_come_back(runs: list[tuple[list[Any], str, int]]) -> None:
    t = new_trace()
    history: list[Any] = []
    for items, answer, kept in runs:
        history = history[:kept] + items
        if answer == "a":
            t.message("user", "go on")
        asked(t, history, answer)
        history = [*history, {"role": "assistant", "content": answer}]
