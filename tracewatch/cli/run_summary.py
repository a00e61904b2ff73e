"""What ``tracewatch run`` says at the end: what was seen, what was not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from ..client.api import Api
from ..client.errors import ApiError, Unreachable
from . import text
from .relay import Relay

MOST_RUNS = 10  # that are named
ANSWER_S = 3.0
Line = tuple[str, bool]  # what to say, and whether something went wrong


def summary(relay: Relay, left: int, url: str, token: str) -> Iterator[Line]:
    """The lines about a run. ``left``: how many bodies did not reach the server at ``url``."""
    yield from ((line, False) for line in _runs(relay, url, token))
    bodies = sum(number for (source, _), number in relay.seen.items() if source != "grpc")
    if not bodies and not relay.report.dropped:
        yield f"nothing was seen: {_why(relay)}", False
    if relay.seen["grpc", "?"]:
        words = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use the exporter for HTTP"
        yield f"something spoke gRPC, which is not taken here: {words}", True
    yield from ((line, True) for line in _troubles(relay, left, url))


def _runs(relay: Relay, url: str, token: str) -> Iterator[str]:
    api = Api(url, token=token or None, timeout_s=ANSWER_S)
    try:
        for trace_id in list(relay.traces)[:MOST_RUNS]:
            try:
                found = api.trace(trace_id)["trace"]
            except ApiError:
                continue  # it became part of another one
            yield f"{_run(found)}: {url}/traces/{quote(trace_id, safe='')}"
        if len(relay.traces) > MOST_RUNS:
            yield f"and {text.count(len(relay.traces) - MOST_RUNS, 'more run')}: {url}/"
    except Unreachable:
        return
    finally:
        api.close()


def _run(trace: dict[str, Any]) -> str:
    totals = trace.get("tree_totals") or {}
    parts = [f"{trace['agent_type']} {trace['status']}"]
    if totals.get("total_messages"):
        parts.append(text.count(totals["total_messages"], "message"))
    if totals.get("total_tokens"):
        parts.append(text.count(totals["total_tokens"], "token"))
    return ", ".join(parts)


def _why(relay: Relay) -> str:
    report = relay.report
    if report.hooked:
        return f"{', '.join(sorted(report.hooked))} was watched, and no agent of it ran"
    if report.imported:
        names = ", ".join(sorted(report.imported))
        return f"{names} was used without a tracer; docs/ingest.md says what to add"
    if report.processes:
        return "the program used no agent framework that is known here, no OpenTelemetry and no LangSmith client"
    return "the program is no Python, or was started without its PYTHONPATH, and sent no OpenTelemetry and no LangSmith"


def _troubles(relay: Relay, left: int, url: str) -> Iterator[str]:
    refused = sum(outlet.refused for outlet in relay.ours.values())
    dropped = sum(outlet.dropped for outlet in relay.ours.values())
    trouble = next((outlet.trouble for outlet in relay.ours.values() if outlet.trouble), "")
    if left:
        yield f"{text.count(left, 'request')} did not reach {url}: {trouble}"
    if refused:
        yield f"{text.count(refused, 'request')} refused by {url}: {trouble}"
    if dropped + relay.report.dropped:
        yield f"{text.count(dropped + relay.report.dropped, 'part')} dropped: more came than could be sent"
    for name, outlet in relay.theirs.items():
        if outlet.refused or outlet.dropped:
            yield f"{name} did not take {outlet.refused + outlet.dropped} of {_all(outlet)}: {outlet.trouble}"
    kinds = Counter(relay.report.errors)
    for words, number in kinds.most_common(3):
        yield f"in the program, not its fault: {words}{f' ({number} times)' if number > 1 else ''}"


def _all(outlet: Any) -> int:
    return int(outlet.sent + outlet.refused + outlet.dropped)
