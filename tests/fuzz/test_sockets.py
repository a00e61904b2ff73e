"""The server answers anything on a WebSocket with frames of the protocol, or closes with one of its codes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support import DEADLINE_S, ServerProcess

pytestmark = pytest.mark.slow
EXAMPLES = 120
FIXED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CODES = {1000, 1007, 1009, 1012, 4008, 4029, *range(4500, 4510)}  # 1011 would be a defect of ours

# --- what is said: true to the protocol in most places, and wrong in some ---------------------------------------

WORDS = st.sampled_from(
    [
        "t",
        "g",
        "m",
        "q",
        "a",
        "0",
        "-5",
        "latest",
        "running",
        "completed",
        "",
        "no-such",
        "ping",
        "x" * 200,
        "\ud800",
        "\0",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | WORDS
    | st.text(st.characters(exclude_categories=()), max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def shaped(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of these keys, and now and then another one."""
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=4), VALUES, max_size=len(keys))


NAMES = ("goal_added", "goal_updated", "message_added", "message_updated", "trace_completed", "input_requested", "step")
EVENT = st.fixed_dictionaries(
    {"event": st.sampled_from(NAMES) | SCALARS},
    optional={
        "goal": shaped("id", "description", "parent_id", "after_id", "status", "type"),
        "goal_id": WORDS,
        "patch": shaped("status", "description", "summary", "content"),
        "message": shaped("message_id", "role", "content", "goal_id", "tokens", "cost", "status"),
        "message_id": WORDS,
        "append": SCALARS,
        "status": WORDS,
        "question": SCALARS,
        "options": VALUES,
        "schema": VALUES,
        "request_id": WORDS,
        "expires_in_s": SCALARS,
        "occurred_at": SCALARS,
    },
)
APPEND = st.fixed_dictionaries(
    {
        "append": st.fixed_dictionaries(
            {"events": st.lists(EVENT | VALUES, max_size=4) | VALUES}, optional={"seq": SCALARS, "producer": WORDS}
        )
    }
)
RECORDER = st.one_of(
    st.fixed_dictionaries({"create": shaped("trace_id", "task", "parent_trace_id", "lease_s", "metadata") | VALUES}),
    st.fixed_dictionaries({"open": shaped("trace_id", "producer") | VALUES}),
    st.fixed_dictionaries({"append": shaped("trace_id", "seq", "producer", "events") | VALUES}),
    st.fixed_dictionaries({"close": shaped("trace_id") | VALUES}),
    st.fixed_dictionaries({"heartbeat": shaped("trace_id") | VALUES}),
    st.just({"open": {"trace_id": "t", "producer": "p"}}),
    APPEND.map(lambda said: {"append": {"trace_id": "t", **said["append"]}}),
)
COMMAND = (
    st.fixed_dictionaries({"cancel": shaped("reason", "by", "id", "trace_id") | VALUES})
    | st.fixed_dictionaries({"answer": shaped("request_id", "value", "by", "id", "trace_id") | VALUES})
    | st.fixed_dictionaries(
        {"subscribe": shaped("trace_id", "since_event_id", "subtree", "cursors", "types", "until", "wait") | VALUES}
    )
    | st.fixed_dictionaries({"unsubscribe": shaped("trace_id") | VALUES})
    | st.fixed_dictionaries({"subscribe_traces": shaped("status", "q", "limit") | VALUES})
    | st.fixed_dictionaries({"event": st.just("ping"), "id": VALUES})
)


def as_text(value: Any) -> str:
    """JSON, or what Python takes for it: NaN, Infinity and lone surrogates included."""
    return json.dumps(value, ensure_ascii=True)


MESSAGES = st.lists(
    (APPEND | RECORDER | COMMAND | VALUES).map(as_text)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.binary(max_size=60),
    min_size=1,
    max_size=5,
)
PATHS = st.sampled_from(
    [
        *("/api/traces/t/record", "/api/traces/t/record?producer=p", "/api/record", "/api/record"),
        *("/api/traces/t/watch", "/api/watch"),
    ]
)


@FIXED
@given(path=PATHS, said=MESSAGES)
def test_whatever_is_said(server: ServerProcess, path: str, said: list[str | bytes]) -> None:
    try:
        with connect(f"{server.ws_url}{path}", compression=None, open_timeout=DEADLINE_S, max_size=None) as ws:
            for message in said:
                ws.send(message)
            ws.send("ping")  # after whatever it was, the socket is either well or closed
            while True:
                frame = orjson.loads(ws.recv(DEADLINE_S, decode=False))
                assert isinstance(frame, dict)
                if frame.get("event") == "pong" and "id" not in frame:
                    break
    except ConnectionClosed as closed:
        assert closed.rcvd is not None and closed.rcvd.code in CODES, closed


# --- what stands in the address ---------------------------------------------------------------------------------

CURSORS = (
    st.text(max_size=40)
    | st.integers().map(str)
    | st.builds("{}.{}".format, st.text(max_size=20), st.integers())
    | st.sampled_from(
        ["0", "", "latest", "-0", "+1", "1e3", "٣", "0x10", "1.2.3", ".1", "1.", "-", "9" * 30, "1_000", " 1"]
    )
)


@FIXED
@given(since=CURSORS, types=st.text(max_size=20), until=st.sampled_from(["end", "", "x"]))
def test_whatever_is_asked_for(server: ServerProcess, since: str, types: str, until: str) -> None:
    query = urlencode({"since_event_id": since, "types": types, "until": until}, errors="surrogatepass")
    try:
        with connect(f"{server.ws_url}/api/traces/t/watch?{query}", compression=None, open_timeout=DEADLINE_S) as ws:
            first = orjson.loads(ws.recv(DEADLINE_S, decode=False))
            assert first["event"] in ("connected", "error")
    except ConnectionClosed as closed:
        assert closed.rcvd is not None and closed.rcvd.code in CODES, closed
