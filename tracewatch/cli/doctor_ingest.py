"""``tracewatch doctor ingest``: what arrived from where in the last hour, and what to set when nothing did."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from ..client.api import Api
from ..client.errors import ApiError
from . import text
from .common import EXIT_FAILED, connect, examples, out_console, output_option, url_option
from .traces import every_trace

EXAMPLES = examples("""
    tracewatch doctor ingest
    tracewatch doctor ingest --url http://localhost:8400 -o json
""")
HOUR_S = 3600
SOURCES = {  # what a trace's id begins with → its name
    "otel": "OpenTelemetry",
    "ls": "LangSmith",
    "cc": "Claude Code",
    "cx": "Codex",
    "gem": "Gemini CLI",
}
RECORDER = "recorder"
_SAMPLE = re.compile(r"(\w+)\{([^}]*)\} ([0-9.e+]+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
INGEST_ROUTES = ("/v1/", "/runs", "/feedback", "/api/otel/")
MOST_TRACES = 20_000
TOLD = {  # of what came since the server's start; in /metrics by these words
    "repeat": "said nothing new",
    "refused": "kept as ingest_refused, as the log can't take them",
    "unknown": "not understood",
    "unreadable": "bodies that could not be read",
    "failed": "not written, by a defect of tracewatch: the server's log says why",
}
REASONS = {
    401: 'needs a token: OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer <token>", or LANGSMITH_API_KEY=<token>',
    403: "the token may not write: tracewatch token create --scope write",
    413: "too large: TRACEWATCH_MAX_INGEST_BYTES",
    400: "not what the path takes: look at the sender's OTEL_EXPORTER_OTLP_PROTOCOL and its endpoint",
    429: "too much at once; the sender repeats it",
    503: "the log could not be written; the sender repeats it",
}


@dataclass(slots=True)
class Arrived:
    """What came of one agent of a source within the hour."""

    source: str
    agent: str
    runs: int = 0
    running: int = 0
    lost: int = 0
    last: float = 0.0


@click.command("ingest", epilog=EXAMPLES)
@output_option("text", "json")
@url_option
@click.pass_context
def command(ctx: click.Context, output: str, url: str | None) -> None:
    """Say what arrived at the server from where in the last hour, and what to set when nothing did.

    Exit code: 0 if something arrived, 1 if nothing did.
    """
    api = connect(url)
    api.health()
    now = api.now()
    arrived = _arrived(api, now)
    seen, refusals = _counted(api)
    if output == "json":
        of_hour = [
            {"source": one.source, "agent": one.agent, "runs": one.runs, "running": one.running, "lost": one.lost}
            | {"last_s_ago": round(max(now - one.last, 0), 1)}
            for one in arrived
        ]
        refused = [{"route": route, "status": status, "requests": n} for (route, status), n in refusals.items()]
        document = {"url": api.url, "last_hour": of_hour, "since_start": seen, "refused_requests": refused}
        sys.stdout.buffer.write(text.json_document(document))
    else:
        _show(api.url, arrived, seen, refusals, now)
    ctx.exit(0 if arrived else EXIT_FAILED)


def _arrived(api: Api, now: float) -> list[Arrived]:
    found: dict[tuple[str, str], Arrived] = {}
    for number, trace in enumerate(every_trace(api, order="activity", limit=200)):
        active = datetime.fromisoformat(trace.get("active_at") or trace["updated_at"]).timestamp()
        if now - active > HOUR_S or number >= MOST_TRACES:
            break
        if trace["parent_trace_id"] is not None:
            continue
        source = source_of(trace)
        one = found.setdefault((source, trace["agent_type"]), Arrived(source, trace["agent_type"]))
        one.runs += 1
        one.running += trace["status"] in ("running", "waiting", "idle")
        one.lost += trace["status"] == "lost"
        one.last = max(one.last, active)
    return sorted(found.values(), key=lambda one: (one.source == RECORDER, one.source, -one.last))


def source_of(trace: dict[str, Any]) -> str:
    """Where a run came from, for a person.

    >>> source_of({"trace_id": "otel-7f3a", "metadata": {}})
    'OpenTelemetry'
    """
    about = trace["metadata"].get("ingest")
    name = about.get("source") if isinstance(about, dict) else None
    name = name if isinstance(name, str) else trace["trace_id"].partition("-")[0]
    return SOURCES.get(name, name if isinstance(about, dict) else RECORDER)


def _counted(api: Api) -> tuple[dict[str, dict[str, int]], dict[tuple[str, int], int]]:
    """What came since the server's start, by source; and how many requests of tracers it refused."""
    seen: dict[str, dict[str, int]] = {}
    refused: dict[tuple[str, int], int] = {}
    try:
        lines = api.metrics()
    except ApiError:  # a token may read and not see the numbers
        return seen, refused
    for name, labels, value in _samples(lines):
        if name.startswith("tracewatch_ingested"):
            of_source = seen.setdefault(SOURCES.get(labels.get("source", ""), labels.get("source", "")), {})
            of_source[labels.get("what", "")] = of_source.get(labels.get("what", ""), 0) + value
        elif name.startswith("tracewatch_http_requests") and labels.get("status", "").isdigit():
            route, status = labels.get("route", ""), int(labels["status"])
            if status >= 400 and route.startswith(INGEST_ROUTES):
                refused[route, status] = refused.get((route, status), 0) + value
    return seen, refused


def _samples(lines: str) -> Iterator[tuple[str, dict[str, str], int]]:
    for line in lines.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is not None:
            yield match[1], dict(_LABEL.findall(match[2])), int(float(match[3]))


def _show(
    url: str,
    arrived: list[Arrived],
    seen: dict[str, dict[str, int]],
    refusals: dict[tuple[str, int], int],
    now: float,
) -> None:
    console = out_console()
    if arrived:
        console.print(Text(f"In the last hour at {text.escape(url)}:"))
    for one in arrived:
        more = [f"{one.running} running"] * bool(one.running) + [f"{one.lost} lost"] * bool(one.lost)
        said = ", ".join([text.count(one.runs, "run"), *more, f"the last {text.age(max(now - one.last, 0))} ago"])
        console.print(Text(f"  {one.source:<14} {text.escape(text.cut(one.agent, 30)):<30} {said}"))
    for source, counts in seen.items():
        words = [f"{counts.get('item', 0):,} items", f"{counts.get('event', 0):,} events written"]
        words += [f"{counts[what]:,} {told}" for what, told in TOLD.items() if counts.get(what)]
        console.print(Text(f"Since the server's start, of {source}: {', '.join(words)}", "dim"))
    for (route, status), number in refusals.items():
        advice = REASONS.get(status, "see the server's log")
        console.print(Text(f"! {text.count(number, 'request')} to {route} answered {status}: {advice}", "yellow"))
    if not arrived:
        console.print(Text(f"Nothing arrived at {text.escape(url)} in the last hour. Your agent is …"))
        for what, line in what_to_set(url):
            console.print(Text(f"  {what}"))
            console.print(Text(f"    {line}", "bold"))
        console.print(
            Text("More: docs/ingest.md. Is the agent on another machine, it needs this one's name in the address.")
        )


def what_to_set(url: str) -> list[tuple[str, str]]:
    """For each kind of agent the line that has it seen by this server."""
    return [
        ("any Python or JavaScript program", "tracewatch run -- python my_agent.py"),
        (
            "LangChain, LangGraph, @traceable",
            f"LANGSMITH_TRACING=true LANGSMITH_ENDPOINT={url} LANGSMITH_API_KEY=any",
        ),
        (
            "traced by OpenTelemetry (http/protobuf or http/json)",
            f"OTEL_EXPORTER_OTLP_ENDPOINT={url} OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_BSP_SCHEDULE_DELAY=200",
        ),
        ("pydantic-ai or openai-agents with Logfire", f"LOGFIRE_TOKEN=any LOGFIRE_BASE_URL={url}"),
        ("Claude Code or Codex", "tracewatch watch-sessions"),
    ]
