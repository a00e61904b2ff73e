"""Recordings of what today's clients send, as items, and what a log holds of them, in a form to compare with truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracewatch.ingest import langsmith, runs
from tracewatch.ingest.items import Item
from tracewatch.ingest.otlp import is_json, read
from tracewatch.ingest.spans import items
from tracewatch.log import EventLog, TraceQuery
from tracewatch.model.times import parse_time
from tracewatch.server.decoding import decoded


@dataclass(frozen=True)
class Sent:
    """One request of a recording."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def decoded(self) -> bytes:
        """The body without its compression."""
        encoding = self.headers.get("content-encoding", "identity")
        return self.body if encoding == "identity" else decoded(self.body, encoding, 2**30)


def requests_of(folder: Path) -> Iterator[Sent]:
    """The requests of a recording, in the order in which they came."""
    for path in sorted(folder.glob("[0-9]*.json")):
        about = json.loads(path.read_text())
        body = (folder / about["body"]).read_bytes() if about["body"] else b""
        left_out = ("content-length", "host", "connection", "transfer-encoding", "accept-encoding")
        headers = {name.lower(): value for name, value in about["headers"]}
        headers = {name: value for name, value in headers.items() if name not in left_out}
        yield Sent(about["method"], about["path"], headers, body)


def otlp_items(sent: Sent) -> list[Item]:
    """The items of a request to ``/v1/traces``."""
    return list(items(read("traces", sent.decoded, json=is_json(sent.headers["content-type"]))))


def langsmith_items(sent: Sent) -> list[Item]:
    """The items of a request to ``/runs/multipart`` or ``/runs/batch``."""
    return list(runs.items(langsmith.read(sent.decoded, sent.headers["content-type"])))


@dataclass(frozen=True)
class Step:
    """An agent's run, a model call or a tool call, of a log or of the truth."""

    kind: str
    name: str
    agent: str  # the agent it belongs to; of an agent the one above, "" for none
    started_at: float
    ended_at: float
    failed: bool


async def steps_of(log: EventLog) -> list[Step]:
    """All that a log holds, by their start."""
    traces = await all_traces(log)
    names = {trace["trace_id"]: trace["agent_type"] for trace in traces}
    found: list[Step] = []
    for trace in traces:
        trace_id, name = trace["trace_id"], names[trace["trace_id"]]
        ended = parse_time(trace["ended_at"]) if trace["ended_at"] else 0.0
        above = names.get(trace["parent_trace_id"], "")
        found.append(Step("agent", name, above, parse_time(trace["started_at"]), ended, trace["status"] == "failed"))
        for message in await messages_of(log, trace_id):
            if message["role"] not in ("assistant", "tool"):
                continue
            kind = "llm" if message["role"] == "assistant" else "tool"
            called = message["content"]["tool_name"] if kind == "tool" else message.get("model", "")
            failed = "error" in message["content"] if kind == "tool" else "error" in message
            times = parse_time(message["started_at"]), parse_time(message["ended_at"])
            found.append(Step(kind, called, name, *times, failed))
    return sorted(found, key=lambda step: step.started_at)


async def all_traces(log: EventLog) -> list[dict[str, Any]]:
    """The summaries of all traces."""
    return (await log.traces(TraceQuery(limit=1000, max_bytes=2**26)))[0]


async def messages_of(log: EventLog, trace_id: str) -> list[dict[str, Any]]:
    """The messages of a trace."""
    return (await log.messages(trace_id, goal_id=None, before=None, limit=1000))[0]


async def usage_of_all(log: EventLog) -> dict[str, int]:
    """The tokens of all traces together."""
    total: dict[str, int] = {}
    for trace in await all_traces(log):
        for part, count in (trace.get("usage") or {}).items():
            total[part] = total.get(part, 0) + count
    return total
