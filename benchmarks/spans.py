"""spans: many processes send OpenTelemetry's spans at once, beside watchers of their runs: is all there, and how late?

A sender is a process of its own (``python -m benchmarks.spans send PORT NUMBER RATE SECONDS``): an agent with calls of
tools that have just ended, in requests of a fifth of a second as an SDK with a short delay sends them. The watchers are
one process (``… watch PORT SENDERS COUNT``). A span's end is when it was sent: what a watcher gets says how old it is.
"""

from __future__ import annotations

import http.client
import os
import select
import sys
import time
from contextlib import ExitStack

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracewatch.model.times import parse_time

from .harness import Bench, Process, Server, check, cpu_s
from .wire import Frames, Socket

SENDERS, WATCHERS, RATE = 20, 100, 2000  # spans a second, of all senders together
EVERY_S = 0.2
ROOT_SPAN = (1 << 32).to_bytes(8, "big")
RESULT = "x" * 300
ADDED = b'{"event":"message_added"'


def trace_id(number: int) -> bytes:
    """The trace of a sender."""
    return (number + 1).to_bytes(16, "big")


def _attributes(span: Span, **values: str) -> None:
    for key, value in values.items():
        one = span.attributes.add()
        one.key, one.value.string_value = key.replace("__", "."), value


def _request(number: int, spans: range) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    name = resource.resource.attributes.add()
    name.key, name.value.string_value = "service.name", f"agent-{number}"
    scope, now = resource.scope_spans.add(), time.time_ns()
    for at in spans:
        span = scope.spans.add(trace_id=trace_id(number), start_time_unix_nano=now - 10**8, end_time_unix_nano=now)
        if at == 0:
            span.span_id, span.name, span.end_time_unix_nano = ROOT_SPAN, "invoke_agent", 0
            _attributes(span, gen_ai__operation__name="invoke_agent", gen_ai__agent__name=f"agent-{number}")
            continue
        span.span_id, span.parent_span_id, span.name = at.to_bytes(8, "big"), ROOT_SPAN, "execute_tool look"
        _attributes(
            span,
            gen_ai__operation__name="execute_tool",
            gen_ai__tool__name="look",
            gen_ai__tool__call__arguments=f'{{"at": "{at}"}}',
            gen_ai__tool__call__result=RESULT,
        )
    return request.SerializeToString()


def send(port: int, number: int, rate: float, seconds: float) -> None:
    """Begin a run, and on a line of stdin send spans at a rate. Prints how long the answers took, in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(spans: range) -> float:
        body, began = _request(number, spans), time.monotonic()
        connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        said = answer.read()
        check(answer.status == 200, f"{answer.status} {said[:200]!r}")
        return (time.monotonic() - began) * 1000

    post(range(1))
    print("ready", flush=True)
    sys.stdin.readline()
    each, took = round(rate * EVERY_S), list[float]()
    start = time.monotonic() + EVERY_S * (number % SENDERS) / SENDERS  # programs don't send at the same moments
    for turn in range(round(seconds / EVERY_S)):
        time.sleep(max(0.0, start + turn * EVERY_S - time.monotonic()))
        took.append(post(range(1 + turn * each, 1 + (turn + 1) * each)))
    print(orjson.dumps({"spans": len(took) * each, "took": took, "s": time.monotonic() - start}).decode(), flush=True)


def watch(port: int, senders: int, count: int) -> None:
    """Watch the runs of all senders. On a line ``N`` wait for N tool calls of each. Prints their ages in ms."""
    found = select.poll()
    sockets: dict[int, tuple[Socket, Frames, set[str]]] = {}
    for number in range(count):
        one = Socket(port, f"/api/traces/otel-{trace_id(number % senders).hex()}/watch?since_event_id=latest")
        one.until(b"caught_up")
        one.raw.setblocking(False)
        sockets[one.raw.fileno()] = one, Frames(), set()
        found.register(one.raw, select.POLLIN)
    print("ready", flush=True)
    wanted, ages, twice = int(sys.stdin.readline()), list[float](), 0
    end = time.monotonic() + 120
    while any(len(seen) < wanted for _, _, seen in sockets.values()) and time.monotonic() < end:
        for fd, _ in found.poll(100):
            socket, frames, seen = sockets[fd]
            data, now = socket.raw.recv(1 << 18), time.time()
            for payload in frames.feed(data):
                if payload.startswith(ADDED):
                    message = orjson.loads(payload)["message"]
                    twice += message["message_id"] in seen
                    seen.add(message["message_id"])
                    ages.append((now - parse_time(message["ended_at"])) * 1000)
    ages.sort()
    lost = sum(max(wanted - len(seen), 0) for _, _, seen in sockets.values())
    ranks = {str(rank): ages[int(len(ages) * rank)] for rank in (0.5, 0.99)} if ages else {}
    print(orjson.dumps({"lost": lost, "twice": twice, "delivered": len(ages), "ages": ranks}).decode(), flush=True)


def run(bench: Bench) -> None:
    """20 processes, 100 watchers, 2,000 spans a second."""
    seconds = bench.pick(20, 4)
    bench.report.title(f"spans: {RATE:,} a second of {SENDERS} processes, beside {WATCHERS} watchers, {seconds} s")
    with ExitStack() as stack:
        server = stack.enter_context(Server(bench.folder / "log.db"))
        arguments = (str(RATE / SENDERS), str(seconds))
        senders = [
            stack.enter_context(Process("-m", "benchmarks.spans", "send", str(server.port), str(number), *arguments))
            for number in range(SENDERS)
        ]
        for sender in senders:
            check(sender.line(60) == "ready", "a sender")
        crowd = stack.enter_context(
            Process("-m", "benchmarks.spans", "watch", str(server.port), str(SENDERS), str(WATCHERS))
        )
        check(crowd.line(60) == "ready", "the watchers")
        before = cpu_s(server.pid)
        crowd.tell(str(round(RATE / SENDERS * EVERY_S) * round(seconds / EVERY_S)))
        for sender in senders:
            sender.tell("go")
        sent = [orjson.loads(sender.line(seconds * 10 + 60)) for sender in senders]
        got = orjson.loads(crowd.line(180))
        cost = (cpu_s(server.pid) - before) / sum(one["spans"] for one in sent) * 1e6
    took = sorted(one for sender in sent for one in sender["took"])
    check(got["lost"] == 0 and got["twice"] == 0, f"{got}")
    report = bench.report
    report.absolute("spans sent in a second", [sum(one["spans"] / one["s"] for one in sent)], "/s")
    report.absolute("from the sender to a watcher, p50", [got["ages"]["0.5"]], "ms")
    report.absolute("from the sender to a watcher, p99", [got["ages"]["0.99"]], "ms", at_most=200)
    report.absolute("the answer to a request, p99", [took[int(len(took) * 0.99)]], "ms")
    report.absolute("the server's CPU for a span with its deliveries", [cost], "µs")
    report.note(f"{got['delivered']:,} deliveries, none lost, none twice; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
    else:
        watch(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
