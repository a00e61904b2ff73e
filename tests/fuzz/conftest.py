"""The server under test: a process of its own whose complaints are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import ServerProcess

EVENTS: list[dict[str, Any]] = [
    {"event": "goal_added", "goal": {"id": "g", "description": "d", "status": "in_progress"}},
    {"event": "message_added", "message": {"role": "user", "content": "c", "message_id": "m"}},
    {"event": "input_requested", "request_id": "q", "question": "?", "options": ["a", "b"]},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with one trace that has a little of everything. In the end it must be well, and have said nothing."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    said = folder / "stderr"
    with ServerProcess(folder / "log.db", said=said) as one:
        with httpx.Client(base_url=one.url, trust_env=False) as client:
            assert client.post("/api/traces", json={"trace_id": "t", "task": "t"}).status_code == 201
            assert client.post("/api/traces/t/events", json=EVENTS).status_code == 200
            yield one
            assert client.get("/readyz").json()["ready"]
        assert "Traceback" not in said.read_text()
        assert one.stop() in (0, -15)
