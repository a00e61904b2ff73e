"""The relay of ``tracewatch run``: answered at once, passed on as it came, and keys go to whom they belong."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import wait_until
from tests.support import free_port
from tracewatch.cli import outlet
from tracewatch.cli.relay import Relay
from tracewatch.cli.run_summary import summary
from tracewatch.cli.vendors import LANGSMITH, Vendors, vendors_of
from tracewatch.client.target import target_of


class FakeServer(ThreadingHTTPServer):
    """A server that keeps what it is sent and answers as it is told."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Kept)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status, self.body, self.headers = 200, b"{}", dict[str, str]()
        self.held = threading.Event()
        self.held.set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.held.set()
        self.shutdown()
        self.server_close()


class _Kept(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((self.command, self.path, headers, body))
        self.server.held.wait()
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = do_PATCH = _any

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def ours() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.close()


@pytest.fixture
def theirs() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.close()


def relay_to(ours: str, vendors: Vendors | None = None, *, forward: bool = False) -> Relay:
    return Relay(target_of(ours, "tw_ours"), vendors or Vendors(), forward=forward)


def call(url: str, method: str = "POST", body: Any = b"x", **headers: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, parts.path, body, named, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_bodies_reach_us_as_they_came_with_our_token_only(ours: FakeServer) -> None:
    ours.headers = {"tracewatch-traces": "otel-a otel-b"}
    relay = relay_to(ours.url)
    sent = {"authorization": "Bearer theirs", "x_api_key": "theirs", "content_encoding": "gzip"}
    assert call(f"{relay.base}/otlp/v1/traces", body=b"\x1f\x8b1", content_type="application/x-protobuf", **sent) == (
        200,
        b"",
    )
    assert call(f"{relay.base}/otlp/v1/logs", content_type="application/json") == (200, b"{}")
    assert call(f"{relay.base}/langsmith/runs/multipart", **sent) == (202, b"{}")
    assert call(f"{relay.base}/langsmith/runs/1", "PATCH", **sent) == (202, b"{}")
    assert call(f"{relay.base}/live/v1/traces", content_type="application/json") == (200, b"{}")
    assert call(f"{relay.root}/v1/traces", body=iter([b"in ", b"parts"]), authorization=relay.secret)[0] == 200
    assert relay.finish() == 0
    by_path = {path: (headers, body) for _, path, headers, body in ours.got}
    assert set(by_path) == {"/v1/traces", "/v1/logs", "/runs/multipart", "/runs/1"}
    assert sorted(body for _, path, _, body in ours.got if path == "/v1/traces") == [b"\x1f\x8b1", b"in parts", b"x"]
    for _, _, headers, _ in ours.got:
        assert headers["authorization"] == "Bearer tw_ours"
        assert "x-api-key" not in headers
    assert by_path["/runs/multipart"][0]["content-encoding"] == "gzip"
    assert list(relay.traces) == ["otel-a", "otel-b"]


def test_nobody_else_is_served(ours: FakeServer) -> None:
    relay = relay_to(ours.url)
    for path in ("/v1/traces", "/other/otlp/v1/traces", "/", "/live/report"):
        assert call(relay.root + path)[0] == 404
    assert call(f"{relay.base}/otlp/v1/other")[0] == 404
    assert call(f"{relay.base}/langsmith/sessions", "GET")[0] == 404
    relay.finish()
    assert ours.got == []


def test_what_a_tracer_asks_is_answered_without_a_server_too(ours: FakeServer) -> None:
    ours.body = b'{"from":"us"}'
    for url, asked in ((ours.url, True), (f"http://127.0.0.1:{free_port()}", False)):
        relay = relay_to(url)
        status, body = call(f"{relay.base}/langsmith/info", "GET", user_agent="langsmith-py/0.15")
        assert status == 200
        assert (body == ours.body) if asked else (json.loads(body)["batch_ingest_config"]["size_limit"] == 1)
        status, body = call(f"{relay.root}/v1/info", "GET", authorization=relay.secret)
        assert status == 200
        assert (body == ours.body) if asked else json.loads(body)["project_name"] == "tracewatch"
        relay.finish()
    assert ours.got[0][2]["user-agent"] == "langsmith-py/0.15"


def test_a_server_that_is_away_keeps_nobody_and_gets_it_when_it_is_back(ours: FakeServer) -> None:
    ours.status = 503
    relay = relay_to(ours.url)
    assert call(f"{relay.base}/otlp/v1/traces") == (200, b"")
    wait_until(lambda: len(ours.got) > 1)
    ours.status = 200
    assert relay.finish() == 0
    assert relay.ours["otlp"].sent == 1


def test_what_is_left_refused_or_dropped_is_said(ours: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    away = relay_to(f"http://127.0.0.1:{free_port()}")
    call(f"{away.base}/otlp/v1/traces")
    assert away.finish() == 1
    assert any("1 request did not reach" in line for line, wrong in summary(away, 1, "http://127.0.0.1:1", "") if wrong)
    ours.status, ours.body = 401, b"no token"
    monkeypatch.setattr(outlet, "MOST_BYTES", 4)
    relay = relay_to(ours.url)
    call(f"{relay.base}/otlp/v1/traces")
    wait_until(lambda: relay.ours["otlp"].refused)
    call(f"{relay.base}/otlp/v1/traces", body=b"x" * 5)
    relay.finish()
    said = [line for line, wrong in summary(relay, 0, "http://127.0.0.1:1", "") if wrong]
    assert said[0] == "1 request refused by http://127.0.0.1:1: HTTP 401: no token"
    assert "1 part dropped" in said[1]


def test_grpc_is_named() -> None:
    relay = relay_to(f"http://127.0.0.1:{free_port()}")
    with socket.create_connection(("127.0.0.1", urlsplit(relay.root).port or 0)) as made:
        made.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert made.recv(100) == b""
    relay.finish()
    assert any("gRPC" in line for line, wrong in summary(relay, 0, "http://127.0.0.1:1", "") if wrong)


# --- vendors ---


def test_vendors_get_the_same_bodies_with_their_keys(ours: FakeServer, theirs: FakeServer) -> None:
    vendors = vendors_of(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{theirs.url}/collect",
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_API_KEY": "ls-key",
            "LANGSMITH_ENDPOINT": f"{theirs.url}/ls",
            "LOGFIRE_TOKEN": "pylf_v1_eu_token",
            "LOGFIRE_BASE_URL": f"{theirs.url}/lf",
        },
        Path("/nowhere"),
    )
    relay = relay_to(ours.url, vendors, forward=True)
    call(f"{relay.base}/otlp/v1/traces", body=b"1", x_header="mine", content_type="application/x-protobuf")
    call(f"{relay.base}/langsmith/runs/multipart", body=b"2", x_api_key="ls-key")
    call(f"{relay.root}/v1/traces", body=b"3", authorization="pylf_v1_eu_token")
    call(f"{relay.base}/live/v1/traces", body=b"4")
    relay.finish()
    got = {body: (path, headers) for _, path, headers, body in theirs.got}
    assert {body: path for body, (path, _) in got.items()} == {
        b"1": "/collect/v1/traces",
        b"2": "/ls/runs/multipart",
        b"3": "/lf/v1/traces",
    }
    assert (got[b"1"][1]["x-header"], got[b"1"][1]["content-type"]) == ("mine", "application/x-protobuf")
    assert got[b"2"][1]["x-api-key"] == "ls-key"
    assert got[b"3"][1]["authorization"] == "pylf_v1_eu_token"
    assert sorted(body for *_, body in ours.got) == [b"1", b"2", b"3", b"4"]
    assert not any("tw_ours" in str(headers) for _, _, headers, _ in theirs.got)


def test_without_forward_vendors_get_nothing_but_what_is_no_trace(ours: FakeServer, theirs: FakeServer) -> None:
    theirs.body = b'{"prompt":"hello"}'
    vendors = Vendors(langsmith=[(theirs.url, "")], langsmith_api=theirs.url)
    relay = relay_to(ours.url, vendors)
    call(f"{relay.base}/langsmith/runs/batch", x_api_key="ls-key")
    assert call(f"{relay.base}/langsmith/commits/me/prompt", "GET", b"", x_api_key="ls-key") == (200, theirs.body)
    relay.finish()
    assert [(path, headers["x-api-key"]) for _, path, headers, _ in theirs.got] == [("/commits/me/prompt", "ls-key")]
    assert [path for _, path, _, _ in ours.got] == ["/runs/batch"]


def test_a_vendor_that_fails_or_hangs_is_named_and_costs_nobody_anything(
    ours: FakeServer, theirs: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "STALL_S", 0.2)
    theirs.held.clear()
    away = f"http://127.0.0.1:{free_port()}/v1/traces"
    vendors = Vendors(langsmith=[(theirs.url, "")], otlp={"traces": away})
    relay = relay_to(ours.url, vendors, forward=True)
    for _ in range(3):
        assert call(f"{relay.base}/langsmith/runs/batch") == (202, b"{}")
        assert call(f"{relay.base}/otlp/v1/traces") == (200, b"")
    assert relay.finish() == 0
    assert len(ours.got) == 6
    said = [line for line, wrong in summary(relay, 0, "http://127.0.0.1:1", "") if wrong]
    assert any(line.startswith("LangSmith did not take 3 of 3: ") for line in said)
    assert any(line.startswith("OpenTelemetry did not take 3 of 3: ") for line in said)


def test_which_vendors_an_environment_names(tmp_path: Path) -> None:
    assert vendors_of({}, tmp_path) == Vendors()
    assert vendors_of({"LANGSMITH_API_KEY": "k"}, tmp_path).langsmith == []
    assert vendors_of({"LANGCHAIN_API_KEY": "k", "LANGCHAIN_TRACING_V2": "true"}, tmp_path).langsmith == [
        (LANGSMITH, "")
    ]
    several = {"LANGSMITH_RUNS_ENDPOINTS": '[{"api_url": "https://a/", "api_key": "1"}]'}
    assert vendors_of(several, tmp_path).langsmith == [("https://a", "1")]
    assert "not what" in vendors_of({"LANGSMITH_RUNS_ENDPOINTS": "["}, tmp_path).notes[0]
    grpc = vendors_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://v:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, tmp_path)
    assert grpc.otlp == {} and "gRPC" in grpc.notes[0]
    one = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://v", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://w/x"}
    assert vendors_of(one, tmp_path).otlp["logs"] == "http://w/x"
    assert vendors_of({"LOGFIRE_TOKEN": "pylf_v1_eu_x"}, tmp_path).logfire == "https://logfire-eu.pydantic.dev"
    (tmp_path / ".logfire").mkdir()
    told = {"token": "t", "logfire_api_url": "https://own"}
    (tmp_path / ".logfire" / "logfire_credentials.json").write_text(json.dumps(told))
    found = vendors_of({}, tmp_path)
    assert (found.logfire, found.logfire_token) == ("https://own", "t")
