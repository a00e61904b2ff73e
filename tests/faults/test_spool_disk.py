"""The recorder's own disk is full while the server is away: the agent is neither broken nor slowed, and the log says
how many events were dropped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.faults.places import client_of, small_disk
from tests.support import ServerProcess, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

_AGENT = """
import sys, time, logging
logging.basicConfig(stream=sys.stdout, format="LOG %(message)s", level="WARNING")
import tracewatch
with tracewatch.trace("x", trace_id="t") as run:
    slowest = 0.0
    for n in range(3000):
        began = time.perf_counter()
        run.event("thought", n=n, pad="x" * 5000)
        slowest = max(slowest, time.perf_counter() - began)
        if n % 500 == 499:
            time.sleep(0.6)  # it works; the spool takes what it can
    print("SLOWEST", slowest, flush=True)
    sys.stdin.readline()
    run.event("back")
print("FLUSHED", run.flush(60), flush=True)
"""


def agent(url: str, spool_dir: Path) -> subprocess.Popen[str]:
    """An agent that records more than its disk holds, then waits for a line."""
    env = {
        "TRACEWATCH_URL": url,
        "TRACEWATCH_SPOOL_DIR": str(spool_dir),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(sys.path),
    }
    command = [sys.executable, "-c", _AGENT]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_full_disk_under_the_spool(tmp_path: Path) -> None:
    port = free_port()
    with small_disk(tmp_path, 2 * 1024) as disk:
        recording = agent(f"http://127.0.0.1:{port}", disk / "spool")
        assert recording.stdout is not None and recording.stdin is not None
        try:
            said: list[str] = []
            while not (line := recording.stdout.readline()).startswith("SLOWEST"):
                assert line, said
                said.append(line)
            assert float(line.split()[1]) < 1.0, "the agent waits for no disk"
            warnings = [one for one in said if "may be dropped" in one]
            assert len(warnings) == 1 and "No space left" in warnings[0], said
            with ServerProcess(tmp_path / "log.db", port) as server:
                recording.stdin.write("\n")
                recording.stdin.flush()
                assert "FLUSHED True" in recording.stdout.read()
                async with client_of(server.url) as client:
                    headers = {"Accept": "application/x-ndjson"}
                    text = (await client.http.get("/api/traces/t/events", headers=headers)).text
            events = [orjson.loads(line) for line in text.splitlines()]
            kept = [event["n"] for event in events if event["event"] == "thought"]
            dropped = sum(event["count"] for event in events if event["event"] == "recorder_dropped")
            assert kept == sorted(kept) and len(kept) + dropped == 3000
            assert dropped > 0 and len(kept) > 300
            assert events[-1]["event"] == "trace_completed"
            assert [path.name for path in disk.rglob("*.spool")] == []
        finally:
            recording.kill()
            recording.wait()
            recording.stdin.close()
            recording.stdout.close()
