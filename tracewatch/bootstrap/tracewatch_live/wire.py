"""The way of steps out of the program: OTLP in JSON, over a plain socket to the relay of ``tracewatch run``.

Rule 1: ``put`` returns at once. A thread makes the spans and sends them; what waits is bounded, and the rest counted.
Rule 2: a socket by hand, as a client for HTTP may be instrumented itself, and its spans would be spans of the program.
Rule 3: a process that was forked has a thread of its own, or none.

A span without an end time is one that has begun. Text that a model streams comes as such a span with the attributes
``tracewatch.text`` and ``tracewatch.text.at``: what follows the first so many characters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

MOST_WAITING = 20_000
MOST_AT_ONCE = 500
MOST_BYTES = 8 * 1024 * 1024  # of one request
MOST_OPEN = 10_000  # spans that are remembered, for the text that they stream
GATHER_S = 0.003  # a span is read so long after its start: some frameworks say only then what it is
TEXT_S = 0.03  # text is gathered for so long
TIMEOUT_S = 5.0
JOIN_S = 0.4  # that the program's exit waits for what is on its way
AWAY_S = 1.0  # nothing is tried for so long after the relay could not be reached
KNOWN = (  # what a program without a tracer may have used instead
    *(
        "openai",
        "anthropic",
        "google.genai",
        "litellm",
        "mistralai",
        "langchain_core",
        "llama_index.core",
        "smolagents",
    ),
    *("autogen_core", "dspy", "haystack", "agno", "strands", "google.adk", "semantic_kernel", "ollama"),
)

Span = dict[str, Any]
Key = tuple[str, str]  # trace id and span id
Make = Callable[..., Any]


class Wire:
    """Sends what is put to the address ``url``, such as ``http://127.0.0.1:4711/secret/live``."""

    def __init__(self, url: str) -> None:
        rest = url.partition("://")[2]
        self.base = url.rpartition("/")[0]  # of all the relay's addresses
        place, _, path = rest.partition("/")
        host, _, port = place.rpartition(":")
        self._address = (host, int(port))
        self._path = "/" + path
        self.hooked: set[str] = set()
        self.errors: list[str] = []
        self.dropped = 0
        self._pid = 0
        self._queue: Any = None
        self._thread: Any = None
        self._socket: Any = None
        self._away_until = 0.0
        self._json: Any = None
        self._net: Any = None
        self._time: Any = None
        self._empty: Any = None
        self._new_queue: Any = None
        self._open: dict[Key, Span] = {}
        self._streamed: dict[Key, int] = {}

    def put(self, make: Make, *args: Any) -> None:
        """Send the span that ``make(*args)`` gives; it is called in another thread."""
        self._put((make, args))

    def put_text(self, trace_id: str, span_id: str, text: str) -> None:
        """Send a further piece of the text of a span that has begun."""
        if text:
            self._put((None, ((trace_id, span_id), text)))

    def failed(self, where: str, error: BaseException) -> None:
        """Count an error of ours."""
        if len(self.errors) < 20:
            self.errors.append(f"{where}: {type(error).__name__}: {error}"[:300])

    def _put(self, one: tuple[Any, Any]) -> None:
        try:
            if self._pid != os.getpid():
                self._begin()
            if self._queue is None or self._queue.qsize() >= MOST_WAITING:
                self.dropped += 1
            else:
                self._queue.put(one)
        except Exception as error:
            self.failed("put", error)

    def _load(self) -> None:
        # All here, not in the thread: a process that is forked during an import could never import that again
        import json
        import queue
        import socket
        import time

        self._json, self._net, self._empty, self._time = json, socket, queue.Empty, time
        self._new_queue = queue.SimpleQueue
        self._pid, self._socket, self._queue, self._away_until = os.getpid(), None, None, 0.0

    def _begin(self) -> None:
        import threading

        self._load()

        waiting: Any = self._new_queue()
        thread = threading.Thread(target=self._work, args=(waiting,), name="tracewatch-live", daemon=True)
        thread.start()  # raises at the interpreter's end: then what comes is counted as dropped
        self._thread, self._queue = thread, waiting

    def finish(self) -> None:
        """Send what waits, and what there is to say of this process. It waits for a moment only."""
        try:
            if self._pid == os.getpid() and self._queue is not None:
                self._queue.put(None)
                self._thread.join(JOIN_S)
                if self._thread.is_alive():
                    return
            if self._pid != os.getpid():
                self._load()
            self._report()
        except Exception:  # noqa: S110
            pass

    # --- the thread ---

    def _work(self, waiting: Any) -> None:
        time = self._time
        while True:
            batch = [waiting.get()]
            time.sleep(GATHER_S if batch[0] is not None else 0)
            until = time.monotonic() + TEXT_S
            while len(batch) < MOST_AT_ONCE and batch[-1] is not None:
                try:
                    only_text = batch[-1][0] is None
                    batch.append(
                        waiting.get(True, max(until - time.monotonic(), 0)) if only_text else waiting.get(False)
                    )
                except self._empty:
                    break
            spans = self._made([one for one in batch if one is not None])
            if spans:
                self._send(spans)
            if batch[-1] is None:
                return

    def _made(self, batch: list[tuple[Any, Any]]) -> list[Span]:
        spans: list[Span] = []
        texts: dict[Key, str] = {}
        for make, args in batch:
            try:
                if make is None:
                    key, text = args
                    texts[key] = texts.get(key, "") + text
                    continue
                span = make(*args)
                if span is not None:
                    self._note(span, texts)
                    spans.append(span)
            except Exception as error:
                self.failed("span", error)
        for key, text in texts.items():
            begun = self._open.get(key)
            if begun is not None:
                at = self._streamed.get(key, 0)
                self._streamed[key] = at + len(text)
                said = {"tracewatch.text": text, "tracewatch.text.at": at}
                spans.append({**begun, "attributes": begun["attributes"] + attributes(said)})
        return spans

    def _note(self, span: Span, texts: dict[Key, str]) -> None:
        key = (span["traceId"], span["spanId"])
        if "endTimeUnixNano" in span:
            self._open.pop(key, None)
            self._streamed.pop(key, None)
            texts.pop(key, None)  # the whole text comes with it
            return
        if len(self._open) >= MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        named = [one for one in span["attributes"] if one["key"] == "gen_ai.operation.name"]
        self._open[key] = {**span, "attributes": named}

    def _send(self, spans: list[Span]) -> None:
        by_resource: dict[str, dict[str, list[Span]]] = {}
        for span in spans:
            plainly = {key: one for key, one in span.items() if key not in ("resource", "scope")}
            scopes = by_resource.setdefault(span.get("resource", "[]"), {})
            scopes.setdefault(span.get("scope", "tracewatch.live"), []).append(plainly)
        groups = []
        for resource, scopes in by_resource.items():
            scoped = [{"scope": {"name": name}, "spans": some} for name, some in scopes.items()]
            groups.append(f'{{"resource":{{"attributes":{resource}}},"scopeSpans":{self._json.dumps(scoped)}}}')
        body = ('{"resourceSpans":[' + ",".join(groups) + "]}").encode()
        if len(body) > MOST_BYTES and len(spans) > 1:
            self._send(spans[: len(spans) // 2])
            self._send(spans[len(spans) // 2 :])
        elif not self._post("/v1/traces", body):
            self.dropped += len(spans)

    # --- one request ---

    def _report(self) -> None:
        told = {
            "pid": os.getpid(),
            "hooked": sorted(self.hooked),
            "imported": [name for name in KNOWN if name in sys.modules],
            "errors": self.errors,
            "dropped": self.dropped,
        }
        self._post("/report", self._json.dumps(told).encode())

    def _post(self, path: str, body: bytes) -> bool:
        time = self._time
        if time.monotonic() < self._away_until:
            return False
        kept = self._socket is not None
        for _ in range(2 if kept else 1):
            try:
                self._exchange(path, body)
                return True
            except (OSError, ValueError) as error:
                self._close()
                trouble = error
        self._away_until = time.monotonic() + AWAY_S
        self.failed("relay", trouble)
        return False

    def _exchange(self, path: str, body: bytes) -> None:
        socket = self._net
        if self._socket is None:
            self._socket = socket.create_connection(self._address, TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            f"POST {self._path}{path} HTTP/1.1\r\nHost: {self._address[0]}:{self._address[1]}\r\n"
            f"User-Agent: tracewatch-live\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer = self._more(answer)
        top, _, rest = answer.partition(b"\r\n\r\n")
        lines = top.decode("latin-1").lower().split("\r\n")
        size = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
        while len(rest) < size:
            rest = self._more(rest)
        if " 200 " not in f"{lines[0]} ":
            raise ValueError(lines[0][:100])

    def _more(self, sofar: bytes) -> bytes:
        data = self._socket.recv(65536)
        if not data or len(sofar) > 1_000_000:
            raise OSError("the relay has closed the connection")
        return sofar + bytes(data)

    def _close(self) -> None:
        made, self._socket = self._socket, None
        if made is not None:
            made.close()


# --- values as OTLP's JSON has them: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding ---------------


def value(given: Any, depth: int = 0) -> dict[str, Any]:
    """Any value as an attribute's value. What OTLP does not have is JSON, or its text."""
    if isinstance(given, bool):
        return {"boolValue": given}
    if isinstance(given, int):
        return {"intValue": str(given)} if -(2**63) <= given < 2**63 else {"stringValue": str(given)}
    if isinstance(given, float):
        finite = given == given and given not in (float("inf"), float("-inf"))
        return {"doubleValue": given} if finite else {"stringValue": str(given)}
    if isinstance(given, str):
        return {"stringValue": given if given.isascii() else given.encode("utf-8", "replace").decode()}
    if isinstance(given, (list, tuple)) and depth < 10 and all(isinstance(one, (str, int, float)) for one in given):
        return {"arrayValue": {"values": [value(one, depth + 1) for one in given]}}
    return {"stringValue": as_json(given)}


def attributes(given: dict[str, Any]) -> list[dict[str, Any]]:
    """The pairs that are not None as OTLP's list."""
    return [{"key": str(key), "value": value(one)} for key, one in given.items() if one is not None]


def as_json(given: Any) -> str:
    """Any value as the text of JSON; what is no JSON as its text."""
    import json

    try:
        return json.dumps(given, default=plain)
    except Exception:
        return repr(given)[:100_000]


def plain(given: Any) -> Any:
    """What JSON does not have, such as a pydantic model, as something that it has."""
    dump = getattr(given, "model_dump", None)
    if callable(dump):
        try:
            return dump(mode="json", exclude_none=True)
        except Exception:
            return repr(given)[:10_000]
    if isinstance(given, (set, frozenset)):
        return sorted(map(str, given))
    return getattr(given, "__dict__", None) or str(given)[:10_000]
