"""The whole API, by schemathesis from its own description, with every check: minutes of it, and memory that stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ServerProcess

SECONDS = int(os.environ.get("ATTACK_S", "60"))
WARM = 0.2  # of the time, after which memory is looked at for the first time
GROWTH_KIB = 48 * 1024  # caches fill up to their limits; a leak of a request's size is hundreds of megabytes
HOOKS = """import schemathesis
schemathesis.serializer("application/x-ndjson")(lambda ctx, value: str(value).encode("utf-8", "surrogatepass"))
"""
# What a schema can't say: two headers that go together, a goal that must exist, an event's own rules
CONFIG = """[checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409, 410, 412, 422]
"""


def resident_kib(pid: int) -> int:
    """What a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.long
@pytest.mark.timeout(SECONDS * 2 + 300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_minutes_of_requests(tmp_path: Path) -> None:
    (tmp_path / "attack_hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    said = tmp_path / "stderr"
    with ServerProcess(tmp_path / "log.db", said=said) as server:
        assert server.process is not None
        sizes = []
        for seconds in (max(5, SECONDS * WARM), SECONDS):
            run(tmp_path, server.url, seconds)
            sizes.append(resident_kib(server.process.pid))
        assert sizes[1] - sizes[0] < GROWTH_KIB, sizes
        assert server.process.poll() is None
    assert "Traceback" not in said.read_text()


def run(folder: Path, url: str, seconds: float) -> None:
    """All phases, as long as the time allows; the checks include that no status is a 5xx."""
    program = Path(sys.executable).with_name("schemathesis")
    config = ["--config-file", str(folder / "schemathesis.toml")]
    how = ["--checks", "all", "--max-time", f"{seconds:.0f}", "-n", "1000", "--continue-on-failure"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "attack_hooks", "PYTHONPATH": str(folder)}
    command = [str(program), *config, "run", f"{url}/openapi.json", *how]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
