"""The REST calls against a server whose answers the test sets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest

from tracewatch.client.api import IMPORT_EVENTS, Api, api_error
from tracewatch.client.errors import ApiError, Unreachable
from tracewatch.errors import InvalidField


class Canned:
    """An HTTP server: ``answers`` are given in turn, ``asked`` is what came."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, bytes]] = []
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                canned.asked.append((self.command, self.path, dict(self.headers), body))
                status, data = canned.answers.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data.removesuffix(b"!CUT!"))

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(60)


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.close()


def test_create_gives_the_summary(canned: Canned) -> None:
    canned.answers = [(201, b'{"trace":{"trace_id":"t"}}')]
    assert Api(canned.url).create_trace({"task": "x", "trace_id": "t"}) == {"trace_id": "t"}
    method, path, headers, body = canned.asked[0]
    assert (method, path, headers["Content-Type"]) == ("POST", "/api/traces", "application/json")
    assert orjson.loads(body) == {"task": "x", "trace_id": "t"}


def test_append_names_its_producer(canned: Canned) -> None:
    canned.answers = [(200, b'{"first_event_id":1,"last_event_id":1,"duplicates":0}')] * 2
    api = Api(canned.url + "/")
    assert api.append("a b", [{"event": "x"}], producer="p", seq=3)["last_event_id"] == 1
    _, path, headers, _ = canned.asked[0]
    assert path == "/api/traces/a%20b/events"
    assert (headers["Producer-Id"], headers["Producer-Seq"]) == ("p", "3")
    api.append("t", b'{"event":"x"}\n{"event":"y"}\n')
    assert canned.asked[1][2]["Content-Type"] == "application/x-ndjson"
    assert "Producer-Id" not in canned.asked[1][2]


def test_parameters_that_are_not_given_are_not_sent(canned: Canned) -> None:
    canned.answers = [(200, b'{"traces":[],"next_page_token":null}'), (200, b"{}"), (200, b"{}")]
    api = Api(canned.url)
    api.traces(status="running", q="a&b")
    api.trace("t", at_event_id=0)
    api.messages("t", before=7)
    assert [path for _, path, _, _ in canned.asked] == [
        "/api/traces?status=running&q=a%26b&limit=50",
        "/api/traces/t?at_event_id=0",
        "/api/traces/t/messages?before=7&limit=100",
    ]


def test_a_refusal_carries_the_servers_words(canned: Canned) -> None:
    canned.answers = [(409, b'{"error":"sequence_gap","message":"m","details":[{"a":1}],"expected_seq":4}')]
    with pytest.raises(ApiError) as caught:
        Api(canned.url).append("t", [{"event": "x"}])
    error = caught.value
    assert (error.status, error.code, error.message, error.details) == (409, "sequence_gap", "m", [{"a": 1}])
    assert error.facts == {"expected_seq": 4}


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"{}", b""])
def test_a_refusal_by_something_else_is_an_api_error_too(body: bytes) -> None:
    assert api_error(502, body).code == "http_error"


def test_an_answer_of_something_else_is_an_api_error(canned: Canned) -> None:
    canned.answers = [(200, b"<html>hello")]
    with pytest.raises(ApiError, match=r"page of HTML.*does not lead to tracewatch"):
        Api(canned.url).health()


def test_no_server_is_unreachable(canned: Canned) -> None:
    canned.close()
    with pytest.raises(Unreachable, match=canned.url):
        Api(canned.url).health()


def test_no_answer_in_time_is_unreachable() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(Unreachable, match="timed out"):
            Api(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05).health()


def test_events_are_the_stored_lines(canned: Canned) -> None:
    canned.answers = [(200, b'{"event_id":1}\n\n{"event_id":2}\n')]
    assert list(Api(canned.url).events("t", "e.5", follow=True)) == [b'{"event_id":1}', b'{"event_id":2}']
    assert canned.asked[0][1] == "/api/traces/t/events?since_event_id=e.5&follow=1"
    assert canned.asked[0][2]["Accept"] == "application/x-ndjson"


def test_a_line_cut_off_is_never_given(canned: Canned) -> None:
    canned.answers = [(200, b'{"event_id":1}\n{"event_id":2!CUT!')]
    lines = Api(canned.url, timeout_s=0.2).events("t")
    assert next(lines) == b'{"event_id":1}'
    with pytest.raises(Unreachable):
        next(lines)


def test_an_import_goes_in_batches_each_with_the_header(canned: Canned) -> None:
    canned.answers = [
        (200, b'{"first_event_id":null,"last_event_id":1000,"duplicates":1000}'),
        (200, b'{"first_event_id":1001,"last_event_id":1001,"duplicates":0}'),
    ]
    lines = [b'{"trace":{}}', *(b'{"event_id":%d}' % n for n in range(1, IMPORT_EVENTS + 2))]
    answer = Api(canned.url).import_lines(lines)
    assert answer == {"first_event_id": 1001, "last_event_id": 1001, "duplicates": 1000}
    sent = [body.split(b"\n") for _, _, _, body in canned.asked]
    assert [part[0] for part in sent] == [lines[0]] * 2
    assert sent[0][1:] + sent[1][1:] == lines[1:]


def test_an_import_of_large_lines_stays_below_the_batch_limit(canned: Canned) -> None:
    canned.answers = [(200, b'{"first_event_id":1,"last_event_id":9,"duplicates":0}')] * 2
    Api(canned.url).import_lines([b'{"trace":{}}', *[b'"%b"' % (b"x" * 250_000)] * 20])
    assert len(canned.asked) == 2
    assert all(len(body) <= 4 * 1024 * 1024 for *_, body in canned.asked)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "http://", "http://[::1", "ftp://x"])
def test_what_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidField):
        Api(url)


def test_what_belongs_together_is_of_one_history(canned: Canned) -> None:
    """A backup was restored between two answers: a list or a tree that is put together would be of neither log."""
    page = b'{"traces":[],"next_page_token":null,"epoch":"%b"}'
    canned.answers = [(200, page % b"a"), (200, b"{}"), (200, page % b"a"), (200, page % b"b"), (200, page % b"b")]
    api = Api(canned.url, one_history=True)
    for _ in range(3):
        api.traces()
    assert api.epoch == "a"
    with pytest.raises(ApiError, match="became another one") as caught:
        api.traces()
    assert (caught.value.status, caught.value.code) == (409, "reset")
    assert Api(canned.url).traces()["epoch"] == "b"


def test_any_other_api_takes_them_as_they_come(canned: Canned) -> None:
    canned.answers = [(200, b'{"epoch":"a"}'), (200, b'{"epoch":"b"}')]
    api = Api(canned.url)
    assert [api.trace("t")["epoch"], api.trace("t")["epoch"], api.epoch] == ["a", "b", "b"]
