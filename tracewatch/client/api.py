"""The REST calls, over the standard library's HTTP client.

Rule 1: every call is a connection of its own. So calls are safe from any thread, and no kept connection can be stale.
Rule 2: a refusal is an ApiError with the server's own words; a call without an answer is an Unreachable.
Rule 3: nothing that is received is kept without a limit: an answer, a refusal and a line each have theirs.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import orjson

from .address import Addresses
from .clock import ServerClock
from .errors import ApiError, Unreachable, unauthorized
from .obstacle import obstacle
from .target import parse_target

IMPORT_EVENTS, IMPORT_BYTES = 1000, 4 * 1024 * 1024 - 64 * 1024  # one batch of the server's, the header line included
ANSWER_BYTES = 1024 * 1024
CONTENT_BYTES = 64 * 1024 * 1024  # of an answer with states, messages or questions
LINE_BYTES = 16 * 1024 * 1024  # one event
FOREIGN = frozenset({"http_error", "proxy"})  # codes of refusals that are not those of a server of ours
_JSON = "application/json"
_NDJSON = "application/x-ndjson"


class Api:
    """The REST calls of a server. ``url``: None takes ``TRACEWATCH_URL``, else loopback; ``token``: likewise.

    ``one_history``: what belongs together is put together from several answers, so an answer of another history of the
    log than those before (a backup was restored meanwhile) raises ApiError 409 ``reset``.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        one_history: bool = False,
    ) -> None:
        self._target = parse_target(url, token)
        self._addresses = Addresses(self._target.host, self._target.port)
        self._timeout_s = timeout_s  # for connecting and for each read
        self.url = self._target.url
        self._clock = ServerClock()
        self._one_history = one_history
        self.epoch: str | None = None  # of the log, as the last answer that holds state named it

    def now(self) -> float:
        """Unix time in seconds by the clock of the server, as its last answer told it; before, by this machine's."""
        return self._clock.now()

    def create_trace(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Create a trace (``{trace_id?, task, …}``, protocol section 3) and return its summary.

        A second call with the same fields returns the same trace.
        """
        answer = self._call("POST", self._target.path("api", "traces"), orjson.dumps(spec))
        trace: dict[str, Any] = answer.get("trace", answer)
        return trace

    def append(
        self,
        trace_id: str,
        events: list[dict[str, Any]] | bytes,
        *,
        producer: str | None = None,
        seq: int | None = None,
        expected_last_event_id: int | None = None,
    ) -> dict[str, Any]:
        """Append one batch, all or none; bytes are JSON or NDJSON.

        ``producer`` and ``seq`` (of the first event) make a repeat harmless. ``expected_last_event_id``: ApiError 412
        if the log has moved on. Returns ``{first_event_id, last_event_id, duplicates}``.
        """
        if isinstance(events, bytes):
            body, form = events, _JSON if events.lstrip()[:1] == b"[" else _NDJSON
        else:
            body, form = orjson.dumps(events), _JSON
        headers = {"Content-Type": form}
        if producer is not None and seq is not None:
            headers |= {"Producer-Id": producer, "Producer-Seq": str(seq)}
        if expected_last_event_id is not None:
            headers["Expected-Last-Event-Id"] = str(expected_last_event_id)
        return self._call("POST", self._target.path("api", "traces", trace_id, "events"), body, headers)

    def heartbeat(self, trace_id: str) -> dict[str, Any]:
        """Renew the lease of a trace. Returns ``{trace_id, cancel_requested, inputs}``."""
        return self._call("POST", self._target.path("api", "traces", trace_id, "heartbeat"), b"{}")

    def import_lines(self, lines: list[bytes]) -> dict[str, Any]:
        """Import an export of any length: ``{"trace":…}`` first, then stored events. It is sent in batches.

        Returns ``{first_event_id, last_event_id, duplicates}`` over all of them.
        """
        total: dict[str, Any] = {"first_event_id": None, "last_event_id": 0, "duplicates": 0}
        for batch in _batches(lines[0], lines[1:]):
            headers = {"Content-Type": _NDJSON}
            answer = self._call("POST", self._target.path("api", "import"), batch, headers)
            if total["first_event_id"] is None:
                total["first_event_id"] = answer["first_event_id"]
            total["last_event_id"] = answer["last_event_id"]
            total["duplicates"] += answer["duplicates"]
        return total

    def traces(
        self,
        *,
        status: str | None = None,
        agent_type: str | None = None,
        q: str | None = None,
        parent_trace_id: str | None = None,
        root_trace_id: str | None = None,
        tag: str | Sequence[str] = (),
        session_id: str | None = None,
        user_id: str | None = None,
        model: str | None = None,
        error: str | None = None,
        filter: str | None = None,
        order: str | None = None,
        limit: int = 50,
        page_token: str | None = None,
    ) -> dict[str, Any]:
        """One page of traces, newest first: ``{traces, next_page_token}``.

        ``tag``: one or several; a trace must have all of them. ``model``: one of its messages is of this model.
        ``error``: ``"*"`` for any, else text in the line that its error says. ``order``: ``"started"`` (when they
        began) or ``"activity"``. ``filter``: in the filter language, ``"status:failed took>20s login"``. Raises
        ApiError 422 for what the server does not know.

        >>> Api().traces(tag=["nightly", "eu"], error="TimeoutError")["traces"]  # doctest: +SKIP
        """
        query = {
            "tag": [tag] if isinstance(tag, str) else list(tag),
            "session_id": session_id,
            "user_id": user_id,
            "model": model,
            "error": error,
            "filter": filter,
            "order": order,
            "status": status,
            "agent_type": agent_type,
            "q": q,
            "parent_trace_id": parent_trace_id,
            "root_trace_id": root_trace_id,
            "limit": limit,
            "page_token": page_token,
        }
        return self._call("GET", self._target.path("api", "traces", **query), most=CONTENT_BYTES)

    def trace(self, trace_id: str, at_event_id: int | None = None) -> dict[str, Any]:
        """``{trace, goal_tree, sub_traces, pending_inputs, watchers}``, now or as they were after an event."""
        path = self._target.path("api", "traces", trace_id, at_event_id=at_event_id)
        return self._call("GET", path, most=CONTENT_BYTES)

    def messages(
        self, trace_id: str, *, goal_id: str | None = None, before: int | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """``{messages, has_more}`` as they now stand; ``before`` is a message's sequence."""
        path = self._target.path("api", "traces", trace_id, "messages", goal_id=goal_id, before=before, limit=limit)
        return self._call("GET", path, most=CONTENT_BYTES)

    def message(self, trace_id: str, message_id: str, *, prompt: bool = False) -> dict[str, Any]:
        """``{event_id, message}``: a message as it now stands. ``prompt``: also all that its model call was asked.

        ``prompt`` is then ``{params, tools, input, exact, lost}`` (protocol, "What a model call was asked"), or None
        for a message that is no model call's. Raises ApiError 404 ``unknown_message``.

            for item in api.message(trace_id, message_id, prompt=True)["prompt"]["input"]:
                print(item["role"])
        """
        path = self._target.path("api", "traces", trace_id, "messages", message_id, prompt=1 if prompt else None)
        return self._call("GET", path, most=CONTENT_BYTES)

    def events(self, trace_id: str, since: str | None = None, *, follow: bool = False) -> Iterator[bytes]:
        """The stored bytes of each event after ``since``, to the log's end; with ``follow`` until the trace ends.

        Raises Unreachable if the connection breaks; another call with the last event's id as ``since`` goes on.
        """
        query = {"since_event_id": since, "follow": 1 if follow else None}
        path = self._target.path("api", "traces", trace_id, "events", **query)
        # While following, silence is normal, and only the end of the trace ends the answer.
        try:
            connection = self._connect(None if follow else self._timeout_s)
            with (
                closing(connection),
                closing(self._request(connection, "GET", path, None, {"Accept": _NDJSON})) as response,
            ):
                for line in _lines(response):
                    if line.strip():
                        yield line
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def blob(self, trace_id: str, sha256: str) -> Iterator[bytes]:
        """The bytes of big or binary content of a trace, in parts, by the SHA-256 that an event names.

        Raises ApiError 404 ``unknown_blob``, Unreachable where the connection breaks before the end.

            picture = b"".join(api.blob("2f8d", reference["blob"]))
        """
        path = self._target.path("api", "traces", trace_id, "blobs", sha256)
        try:
            connection = self._connect(self._timeout_s)
            with closing(connection), closing(self._request(connection, "GET", path, None, {})) as response:
                while part := response.read1(256 * 1024):
                    yield part
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def put_blob(self, trace_id: str, data: bytes, media_type: str = "application/octet-stream") -> str:
        """Store big or binary content of a trace, up to 32 MiB, for events to name; returns its SHA-256.

        Raises ApiError 413 ``too_large`` or ``trace_blobs_full``.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._target.path("api", "traces", trace_id, "blobs", sha256)
        self._call("PUT", path, data, {"Content-Type": media_type})
        return sha256

    def cancel(self, trace_id: str, reason: str | None = None, by: str | None = None) -> dict[str, Any]:
        """Ask a run to stop. Returns ``{status}``: cancelling, or stopped if its recorder is gone.

        Raises ApiError 409 ``not_running`` for a trace that has ended.
        """
        given = {"reason": reason, "by": by}
        body = orjson.dumps({key: value for key, value in given.items() if value is not None})
        return self._call("POST", self._target.path("api", "traces", trace_id, "cancel"), body)

    def search(
        self,
        q: str,
        *,
        trace_id: str | None = None,
        limit: int | None = None,
        per_trace: int | None = None,
        page_token: str | None = None,
    ) -> dict[str, Any]:
        """``{hits, traces, next_page_token, index}``: where a text is found, the newest traces first.

        ``q``: words, ``"phrases"``, prefixes ``log*``, ``-words``, and fields of the filter language such as
        ``status:failed``. ``trace_id``: only in this trace and its sub-traces. ``limit``: hits, and ``per_trace``: of
        one trace. Raises ApiError 422 for what is not understood, with its place; 503 while there is no index.

            api.search('"session cookie" status:failed')["hits"][0]["snippet"]
        """
        values = {"q": q, "trace_id": trace_id, "limit": limit, "per_trace": per_trace, "page_token": page_token}
        return self._call("GET", self._target.path("api", "search", **values), most=CONTENT_BYTES)

    def inputs(self, limit: int | None = None, page_token: str | None = None) -> dict[str, Any]:
        """``{inputs, has_more}``: the open questions of all traces, oldest first, each with its trace.

        Where there are more, ``next_page_token`` is the ``page_token`` of the next page.
        """
        path = self._target.path("api", "inputs", limit=limit, page_token=page_token)
        return self._call("GET", path, most=CONTENT_BYTES)

    def input(self, trace_id: str, request_id: str) -> dict[str, Any]:
        """``{trace_id, request_id, state, …}``: how a question stands, and the whole of it while it is open."""
        path = self._target.path("api", "traces", trace_id, "inputs", request_id)
        return self._call("GET", path, most=CONTENT_BYTES)

    def answer(self, trace_id: str, request_id: str, value: Any, by: str | None = None) -> dict[str, Any]:
        """Answer a question; the first answer wins.

        Raises ApiError 409 ``already_answered`` or ``not_running``, 410 ``expired``, 422 ``invalid_value``.
        """
        body = orjson.dumps({"value": value} | ({} if by is None else {"by": by}))
        return self._call("POST", self._target.path("api", "traces", trace_id, "inputs", request_id), body)

    def delete(self, trace_id: str) -> None:
        """Remove a trace and its sub-traces."""
        self._call("DELETE", self._target.path("api", "traces", trace_id))

    def health(self) -> dict[str, Any]:
        """``GET /healthz``."""
        return self._call("GET", self._target.path("healthz"))

    def metrics(self) -> str:
        """``GET /metrics``: the server's numbers, in Prometheus's text format."""
        path = self._target.path("metrics")
        response, data = self._exchange(
            "GET", path, None, {"Accept": "text/plain", "Connection": "close"}, ANSWER_BYTES
        )
        if response.status != 200:
            raise refusal(self.url, path, response.status, dict(response.headers), data)
        return data.decode("utf-8", "replace")

    def tell(
        self, route: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        """Give the server what a foreign tracer sent, to ``route`` (``/v1/traces``). JSON unless ``headers`` say else.

        Returns the answer, and the ids of traces that it was about, of 20 at most.
        """
        path = self._target.path(*route.strip("/").split("/"))
        given = {
            "Accept": _JSON,
            **({} if headers else {"Content-Type": _JSON}),
            **(headers or {}),
            "Connection": "close",
        }
        response, data = self._exchange("POST", path, body, given, ANSWER_BYTES)
        if response.status >= 300:
            raise refusal(self.url, path, response.status, dict(response.headers), data)
        return orjson.loads(data) if data else {}, (response.headers.get("tracewatch-traces") or "").split()

    def close(self) -> None:
        """Do nothing: no connection is kept between calls. The method is there for callers that close what they use."""

    # --- one call ---

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        target = self._target
        connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
        sock = self._addresses.connect(self._timeout_s)
        if target.secure:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
            connection.default_port = http.client.HTTPS_PORT  # it is left out of Host
        sock.settimeout(timeout_s)
        connection.sock = sock
        return connection

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        most: int = ANSWER_BYTES,
    ) -> dict[str, Any]:
        given = {"Accept": _JSON, "Connection": "close"} | ({} if body is None else {"Content-Type": _JSON})
        response, data = self._exchange(method, path, body, given | (headers or {}), most)
        try:
            answer = orjson.loads(data) if data else {}
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise refusal(self.url, path, response.status, dict(response.headers), data)
        self._clock.hear(answer.get("ts"))
        self._note_epoch(answer.get("epoch"))
        return answer

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], most: int
    ) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            connection = self._connect(self._timeout_s)
            with closing(connection), closing(self._request(connection, method, path, body, headers)) as response:
                data = response.read(most + 1)
                missing = response.length
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if len(data) > most:
            raise Unreachable(f"{self.url} answers {method} {path} with more than {most:,} bytes")
        if missing:
            raise self._unreachable(http.client.IncompleteRead(data, missing))
        return response, data

    def _note_epoch(self, epoch: str | None) -> None:
        if epoch is None:
            return
        if self._one_history and self.epoch not in (None, epoch):
            words = f"the log at {self.url} became another one meanwhile (restored or made anew): ask again"
            raise ApiError(409, "reset", words)
        self.epoch = epoch

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        connection.request(method, path, body, headers | self._target.headers)
        response = connection.getresponse()
        if response.status >= 300:
            with closing(response):
                data = response.read(ANSWER_BYTES)
            raise refusal(self.url, path, response.status, dict(response.headers), data)
        return response

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(f"{self.url} can't be reached: {error or type(error).__name__}")


def refusal(
    url: str, path: str, status: int, headers: Mapping[str, str], body: bytes, *, upgrade: bool = False
) -> ApiError:
    """The error in an answer, with the words for what stands between, if it was not the server that answered."""
    error, words = api_error(status, body), obstacle(url, path, status, headers, body, upgrade=upgrade)
    if words is None:
        return error if status >= 300 else ApiError(status, "proxy", f"{url} does not answer like a tracewatch server")
    return ApiError(status, "proxy" if error.code == "http_error" else error.code, words, error.details, error.facts)


def api_error(status: int, body: bytes) -> ApiError:
    """The error in an answer's body, or a general one if the body is not of a server of ours."""
    try:
        answer = orjson.loads(body)
        code, message = str(answer.pop("error")), str(answer.pop("message"))
        details = details_of(answer)
        answer.pop("details")
        if status == 401:
            return unauthorized(message)
        return ApiError(status, code, message or code, details, answer)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return ApiError(status, "http_error", f"HTTP {status}: {body[:200].decode(errors='replace')}")


def details_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The ``details`` of a refusal; [] if there are none that can be read."""
    details = answer.get("details")
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of a body as they arrive. A last line without its line break was cut off, which is an error."""
    rest: list[bytes] = []
    size = 0
    while chunk := response.read1(65536):
        *lines, last = chunk.split(b"\n")
        for line in lines:
            yield b"".join([*rest, line])
            rest, size = [], 0
        rest.append(last)
        size += len(last)
        if size > LINE_BYTES:
            raise http.client.HTTPException(f"a line of more than {LINE_BYTES:,} bytes")
    if size:
        raise http.client.IncompleteRead(b"".join(rest))


def _batches(header: bytes, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Request bodies, each with the header line and as many lines as one batch may hold; at least one."""
    batch, size = [header], len(header)
    for line in lines:
        if len(batch) > 1 and (len(batch) > IMPORT_EVENTS or size + len(line) + 1 > IMPORT_BYTES):
            yield b"\n".join(batch)
            batch, size = [header], len(header)
        batch.append(line)
        size += len(line) + 1
    yield b"\n".join(batch)
