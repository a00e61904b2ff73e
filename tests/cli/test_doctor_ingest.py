"""``tracewatch doctor ingest``: what arrived from where, what was refused, and what to set when nothing did."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

from tests.cli.conftest import Run
from tests.support import ServerProcess
from tests.tracing import TRACE, body_of
from tracewatch.client.api import Api


def post(url: str, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_it_says_what_arrived_and_what_to_set_before(server: ServerProcess, tw: Run, api: Api) -> None:
    nothing = tw("doctor", "ingest")
    assert nothing.code == 1
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT={server.url}" in nothing.text
    assert f"LANGSMITH_ENDPOINT={server.url}" in nothing.text
    assert "tracewatch run -- python my_agent.py" in nothing.text

    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"}
    body = json.dumps(body_of("invoke_agent planner", agent, parentSpanId="")).encode()
    assert [post(server.url, "/v1/traces", one) for one in (body, body, b"no JSON")] == [200, 200, 400]
    api.create_trace({"task": "by hand", "agent_type": "coder"})
    found = tw("doctor", "ingest")
    assert found.code == 0
    assert "OpenTelemetry  planner" in found.text
    assert "recorder       coder" in found.text
    assert "1 said nothing new" in found.text
    assert "1 bodies that could not be read" in found.text
    assert "/v1/traces answered 400" in found.text
    document = json.loads(tw("doctor", "ingest", "-o", "json").out)
    assert [(one["source"], one["agent"], one["runs"]) for one in document["last_hour"]] == [
        ("OpenTelemetry", "planner", 1),
        ("recorder", "coder", 1),
    ]
    assert document["since_start"]["OpenTelemetry"]["item"] == 2
    assert api.trace(f"otel-{TRACE}")["trace"]["status"] == "completed"


def test_the_doctor_itself_is_as_before(tw: Run) -> None:
    helped = tw("doctor", "--help")
    assert (helped.code, "ingest" in helped.text, "--full" in helped.text) == (0, True, True)
    assert tw("doctor", "nothing").code == 2
