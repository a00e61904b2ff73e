"""The network against the agent: a server that is away for hours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.test_record import steps
from tests.support import ServerProcess

pytestmark = pytest.mark.anyio

RUNS = """
import os, resource, sys, tracewatch
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
most = 0
for n in range(300):
    with tracewatch.trace("run", trace_id=f"t{n}", url=sys.argv[1], spool_dir=sys.argv[2]) as t:
        t.event("step", n=n)
    most = max(most, len(os.listdir("/proc/self/fd")))
print(most)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_a_server_that_is_away_costs_no_descriptor_a_run(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "t.db")
    command = [sys.executable, "-c", RUNS, server.url, str(tmp_path / "spool")]
    env = {**os.environ, "TRACEWATCH_LINGER_S": "0", "TRACEWATCH_FLUSH_S": "0.1"}
    ran = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr
    assert int(ran.stdout) < 150  # and not one for each of the 300
    assert "600 are kept" in ran.stderr and "0 are lost" in ran.stderr
    with server:
        after = (
            f"import tracewatch\nwith tracewatch.trace('after', url={server.url!r}, spool_dir={command[-1]!r}): pass"
        )
        env |= {"TRACEWATCH_LINGER_S": "60", "TRACEWATCH_FLUSH_S": "60"}
        for _ in range(30):
            await asyncio.to_thread(subprocess.run, [sys.executable, "-c", after], env=env, timeout=120)
            if not list((tmp_path / "spool").rglob("*.spool")):
                break
        for n in (0, 150, 299):
            assert await steps(server.url, f"t{n}") == [n]
