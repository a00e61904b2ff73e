"""What the tracers of a program that ``tracewatch run`` started talk to: a server on loopback within that command.

Rule 1: a tracer is answered at once, whatever becomes of what it sent: neither a server that is away nor a vendor that
        is slow keeps the program, or its exit.
Rule 2: bodies go on as they came, to our server, and with ``--forward`` to the vendors too. Keys of vendors reach
        nobody but them; our token reaches nobody but our server.
Rule 3: only the program is served: its addresses hold a secret, or its requests a token that it was given.
"""

from __future__ import annotations

import http.client
import json
import secrets
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from ..client.target import Target
from .outlet import MOST_BYTES, Outlet, Peer, Received, Sending
from .vendors import SIGNALS, Vendors

TRACES_HEADER = "tracewatch-traces"  # of an answer of ours: the traces that a request was about
LANGSMITH_INFO = {  # what langsmith's client is told where our server can't be asked: send each start at once
    "version": "0.12.0",
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 1,
        "size_limit_bytes": 20 * 1024 * 1024,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 16,
        "scale_down_nempty_trigger": 4,
    },
    "instance_flags": {},
}
PASSED_ON = ("content-type", "content-encoding", "user-agent")  # to our server
HOP = frozenset(  # what concerns one connection only: https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
ASK_S = 2.0  # that our server may take to answer what a tracer asks it
VENDOR_S = 60.0
JSON = "application/json"


class LiveReport:
    """What the module in the program's Python processes told of itself."""

    def __init__(self) -> None:
        self.processes: set[int] = set()
        self.hooked: set[str] = set()
        self.imported: set[str] = set()
        self.errors: list[str] = []
        self.dropped = 0

    def add(self, told: Any) -> None:
        """Take in one report. What is not as it should be is left out."""
        if not isinstance(told, dict):
            return
        if isinstance(told.get("pid"), int):
            self.processes.add(told["pid"])
        for name, known in (("hooked", self.hooked), ("imported", self.imported)):
            known.update(str(one)[:100] for one in told.get(name) or () if isinstance(one, str))
        self.errors += [str(one)[:500] for one in told.get("errors") or ()][:100]
        self.dropped += told["dropped"] if isinstance(told.get("dropped"), int) else 0


class Relay:
    """The relay for one run, from its construction until ``finish``.

    server: ours. vendors: whom the program's environment names. forward: whether they get the bodies as well.
    """

    def __init__(self, server: Target, vendors: Vendors, *, forward: bool) -> None:
        self.secret = secrets.token_urlsafe(16)
        self.report = LiveReport()
        self.seen: Counter[tuple[str, str]] = Counter()  # bodies by (source, client)
        self.traces: dict[str, None] = {}  # ids, in the order in which they came
        self._server, self._vendors, self._forward = server, vendors, forward
        self._lock = threading.Lock()
        self.ours = {
            name: Outlet(name, patient=True, told=self._note_traces)
            for name in ("live", "otlp", "langsmith", "logfire")
        }
        self.theirs: dict[str, Outlet] = {}
        self._http = _Http(self)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="tracewatch-relay", daemon=True
        )
        self._thread.start()

    @property
    def root(self) -> str:
        """The address for a tracer that takes no path."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def base(self) -> str:
        """The address with the secret, below which each source has a path of its own."""
        return f"{self.root}/{self.secret}"

    def finish(self) -> int:
        """Send on what waits, for as long as it is taken; how many bodies for our server are left."""
        left = sum(len(outlet.finish()) for outlet in self.ours.values())
        for outlet in self.theirs.values():
            waiting = outlet.finish()  # while it works it counts, too
            outlet.dropped += len(waiting)
        self._http.shutdown()
        self._http.server_close()
        return left

    # --- one request ---

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Received:
        """What a tracer is answered. ``headers`` are by their names in lower case."""
        first, _, rest = urlsplit(path).path.lstrip("/").partition("/")
        query = f"?{urlsplit(path).query}" if urlsplit(path).query else ""
        if first == self.secret:
            source, _, rest = rest.partition("/")
        elif self._is_logfire(headers.get("authorization", "")):
            source, rest = "logfire", urlsplit(path).path.lstrip("/")
        else:
            return _said(404, "this address is for one program only")
        sending = Sending(method, f"/{rest}", dict(headers), body)
        if source == "live":
            return self._live(sending)
        if source in ("otlp", "logfire"):
            return self._otlp(source, sending, query)
        return self._langsmith(sending, query) if source == "langsmith" else _said(404, "no such path")

    def _is_logfire(self, authorization: str) -> bool:
        given = authorization.removeprefix("Bearer ").strip()
        known = [self.secret, *filter(None, [self._vendors.logfire_token])]
        return any(secrets.compare_digest(given.encode(), one.encode()) for one in known)

    def _live(self, sending: Sending) -> Received:
        if sending.url == "/report":
            with suppress(ValueError), self._lock:
                self.report.add(json.loads(sending.body))
            return Received(200, {"content-type": JSON}, b"{}")
        if sending.method != "POST" or sending.url != "/v1/traces":
            return _said(404, "no such path")
        self._to_ours("live", sending)
        return Received(200, {"content-type": JSON}, b"{}")

    def _otlp(self, source: str, sending: Sending, query: str) -> Received:
        signal = sending.url.removeprefix("/v1/")
        if sending.method == "POST" and signal in SIGNALS:
            self._to_ours(source, sending)
            url = self._vendors.otlp.get(signal) if source == "otlp" else f"{self._vendors.logfire}{sending.url}"
            if url and (source == "otlp" or self._vendors.logfire):
                self._to_theirs("OpenTelemetry" if source == "otlp" else "Logfire", sending, url + query, {})
            is_json = "json" in sending.headers.get("content-type", "")
            return Received(
                200, {"content-type": JSON if is_json else "application/x-protobuf"}, b"{}" if is_json else b""
            )
        if source == "logfire" and sending.url == "/v1/info" and sending.method == "GET":
            told = {"project_name": "tracewatch", "project_url": f"{self._server.url}/"}
            return self._asked(sending) or Received(200, {"content-type": JSON}, json.dumps(told).encode())
        if source == "logfire" and self._vendors.logfire:
            return self._beyond(sending, f"{self._vendors.logfire}{sending.url}{query}", "Logfire")
        return _said(404, "no such path")

    def _langsmith(self, sending: Sending, query: str) -> Received:
        path, method = sending.url, sending.method
        if method == "GET" and path == "/info":
            return self._asked(sending) or Received(200, {"content-type": JSON}, json.dumps(LANGSMITH_INFO).encode())
        is_runs = method == "POST" and path in ("/runs", "/runs/batch", "/runs/multipart", "/feedback")
        if is_runs or (method == "PATCH" and path.startswith("/runs/")):
            self._to_ours("langsmith", sending)
            for number, (url, key) in enumerate(self._vendors.langsmith):
                name = "LangSmith" if number == 0 else f"LangSmith {number + 1}"
                self._to_theirs(name, sending, url + path + query, {"x-api-key": key} if key else {})
            return Received(202, {"content-type": JSON}, b"{}")
        if path.startswith("/otel/v1/"):
            return self._otlp("otlp", Sending(method, path.removeprefix("/otel"), sending.headers, sending.body), query)
        if self._vendors.langsmith_api:  # prompts, data sets …: what the program would have had without us
            return self._beyond(sending, self._vendors.langsmith_api + path + query, "LangSmith")
        return _said(404, "tracewatch takes the runs of LangSmith's client, and no other request")

    # --- on its way ---

    def _to_ours(self, source: str, sending: Sending) -> None:
        client = sending.headers.get("user-agent", "").partition(" ")[0] or "?"
        with self._lock:
            self.seen[source, client[:80]] += 1
        self.ours[source].put(self._for_ours(sending))

    def _for_ours(self, sending: Sending) -> Sending:
        headers = {name: sending.headers[name] for name in PASSED_ON if name in sending.headers}
        url = self._server.url.rstrip("/") + sending.url
        return Sending(sending.method, url, headers | self._server.headers, sending.body)

    def _to_theirs(self, name: str, sending: Sending, url: str, headers: dict[str, str]) -> None:
        if not self._forward:
            return
        with self._lock:
            outlet = self.theirs.setdefault(name, Outlet(name, patient=False))
        kept = {header: value for header, value in sending.headers.items() if header not in HOP}
        outlet.put(Sending(sending.method, url, kept | headers, sending.body))

    def _asked(self, sending: Sending) -> Received | None:
        """What our server answers to this; None where it does not."""
        peer = Peer(ASK_S)
        try:
            answer = peer.exchange(self._for_ours(sending))
        except (OSError, http.client.HTTPException):
            return None
        finally:
            peer.close()
        return answer if answer.status == 200 else None

    def _beyond(self, sending: Sending, url: str, name: str) -> Received:
        """A vendor's answer to what is no trace."""
        peer = Peer(VENDOR_S)
        kept = {header: value for header, value in sending.headers.items() if header not in HOP}
        try:
            return peer.exchange(Sending(sending.method, url, kept, sending.body))
        except (OSError, http.client.HTTPException) as error:
            return _said(502, f"{name}: {error or type(error).__name__}")
        finally:
            peer.close()

    def _note_traces(self, answer: Received) -> None:
        with self._lock:
            for trace_id in answer.headers.get(TRACES_HEADER, "").split():
                self.traces[trace_id] = None

    def note_grpc(self) -> None:
        """Somebody spoke gRPC."""
        with self._lock:
            self.seen["grpc", "?"] += 1


def _said(status: int, words: str) -> Received:
    return Received(status, {"content-type": JSON}, json.dumps({"detail": words}).encode())


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke concerns nobody."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: two cost 40 ms each by delayed acknowledgements
    disable_nagle_algorithm = True
    server: _Http
    raw_requestline: bytes

    def parse_request(self) -> bool:
        """The request's head. HTTP/2 is what gRPC speaks."""
        if self.raw_requestline.startswith(b"PRI * HTTP/2"):
            self.server.relay.note_grpc()
            self.close_connection = True
            return False
        return super().parse_request()

    def _any(self) -> None:
        body = self._body()
        if body is None:
            self.close_connection = True
            answer = _said(413, "too large")
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = self.server.relay.answer(self.command, self.path, headers, body)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name not in HOP and name not in ("date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_OPTIONS = _any

    def _body(self) -> bytes | None:
        """The request's body; None for one that is too large, or not as HTTP has it."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            size = self.headers.get("Content-Length") or "0"
            return self.rfile.read(int(size)) if size.isdigit() and int(size) <= MOST_BYTES else None
        parts, total = list[bytes](), 0
        while True:
            size = self.rfile.readline(100).split(b";")[0].strip().decode("latin-1")
            try:
                number = int(size, 16)
            except ValueError:
                return None
            total += number
            if number < 0 or total > MOST_BYTES:
                return None
            if number == 0:
                while self.rfile.readline(65536).strip():
                    pass
                return b"".join(parts)
            parts.append(self.rfile.read(number))
            self.rfile.readline(3)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said of a request."""
