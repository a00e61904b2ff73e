"""``tracewatch run``: the program's end is its own, its traces arrive, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Spawned, wait_until
from tests.cli.test_relay import FakeServer
from tests.support import ServerProcess, free_port
from tracewatch.cli.variables import child_environ, program_name
from tracewatch.client.api import Api
from tracewatch.client.errors import Unreachable

Spawn = Callable[..., Spawned]
ROOT = Path(__file__).resolve().parents[2]
SEND = """
    import json, os, sys, time, urllib.request

    def send(trace, name="planner", endpoint=os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], **headers):
        now = time.time_ns()
        attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
        span = {"traceId": trace, "spanId": "1" * 16, "name": "run", "startTimeUnixNano": str(now),
                "endTimeUnixNano": str(now + 1),
                "attributes": [{"key": k, "value": {"stringValue": v}} for k, v in attributes.items()]}
        body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
        sent = urllib.request.Request(endpoint, body, {"Content-Type": "application/json", **headers})
        return urllib.request.urlopen(sent).status
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def with_send(code: str) -> list[str]:
    return python(textwrap.dedent(SEND) + textwrap.dedent(code))


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("print('out'); raise SystemExit(0)", 0),
        ("print('out', flush=True); raise SystemExit(3)", 3),
        ("import os; print('out', flush=True); os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; print('out', flush=True); os.kill(os.getpid(), 15)", -signal.SIGTERM),
    ],
)
def test_the_end_of_the_program_is_ours(spawn: Spawn, code: str, end: int) -> None:
    ran = spawn("run", "-q", "--", *python(code)).end()
    assert (ran.code, ran.out) == (end, b"out\n")


def test_stdin_and_arguments_are_the_programs_own(spawn: Spawn) -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read())"
    ran = spawn("run", "-q", *python(code), "--url", "-x", "--", "y").end(b"given")
    assert ran.text == "['--url', '-x', '--', 'y'] given\n"


@pytest.mark.parametrize(("program", "end"), [("./no-such-program", 127), ("/etc/hostname", 126)])
def test_what_is_no_program_ends_as_in_a_shell(spawn: Spawn, program: str, end: int) -> None:
    ran = spawn("run", "-q", "--", program).end()
    assert ran.code == end
    assert ran.err.startswith(f"tracewatch: {program}: ") and len(ran.err.splitlines()) == 1


def test_what_the_program_sends_is_seen_and_named_at_the_end(spawn: Spawn, api: Api) -> None:
    trace = "0a" * 16
    ran = spawn("run", "--", *with_send(f"send('{trace}'); sys.exit(4)")).end()
    assert ran.code == 4
    assert api.trace(f"otel-{trace}")["trace"]["status"] == "completed"
    assert f"planner completed: {api.url}/traces/otel-{trace}" in ran.err
    assert f"tracewatch: {api.url}/\n" in ran.err


def test_when_nothing_was_seen_it_says_why(spawn: Spawn) -> None:
    ran = spawn("run", "--", "true").end()
    assert ran.code == 0
    assert "nothing was seen: the program is no Python" in ran.err


def test_without_a_server_one_is_started_and_ends(spawn: Spawn, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    db, trace = tmp_path / "own.db", "0b" * 16
    ran = spawn("run", "--db", str(db), "--", *with_send(f"send('{trace}')"), url=url).end()
    assert ran.code == 0
    assert f"started a server: {url}/" in ran.err and f"{url}/traces/otel-{trace}" in ran.err
    assert gone(url)
    with ServerProcess(db) as kept:
        assert Api(kept.url).trace(f"otel-{trace}")["trace"]["status"] == "completed"


def gone(url: str) -> bool:
    try:
        Api(url).health()
    except Unreachable:
        return True
    return False


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_ctrl_c_leaves_nothing_behind(spawn: Spawn, tmp_path: Path, how: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code = """
        import os, signal, sys, time
        print(os.getpid(), flush=True)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            sys.exit(5)
    """
    run = spawn("run", "--db", str(tmp_path / "own.db"), "--", *python(code), url=url)
    pid = int(run.line())
    assert not gone(url)
    if how == "interrupt":
        run.interrupt()
        assert run.end().code == 5
    else:
        run.process.kill()
        run.process.wait()
        wait_until(lambda: gone(url))
        os.kill(pid, signal.SIGKILL)  # the program goes on by itself
    assert gone(url)


def test_a_server_that_dies_in_between_costs_the_program_nothing(spawn: Spawn, tmp_path: Path) -> None:
    code = """
        print(send("0c" * 16), flush=True)
        sys.stdin.readline()
        print(send("0d" * 16), flush=True)
        sys.exit(6)
    """
    with ServerProcess(tmp_path / "log.db") as server:
        run = spawn("run", "--", *with_send(code), url=server.url)
        assert run.line() == b"200\n"
        wait_until(lambda: Api(server.url).traces()["traces"])
        server.kill()
        ran = run.end(b"\n")
        assert (ran.code, ran.out) == (6, b"200\n")
        assert re.search(rf"\d requests? did not reach {re.escape(server.url)}", ran.err)


def test_a_server_of_its_own_that_was_killed_is_started_again(spawn: Spawn, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code = """
        import subprocess
        send("0e" * 16)
        print("sent", flush=True)
        sys.stdin.readline()
        send("0f" * 16)
        sys.stdin.readline()
    """
    run = spawn("run", "--db", str(tmp_path / "own.db"), "--", *with_send(code), url=url)
    assert run.line() == b"sent\n"
    wait_until(lambda: Api(url).traces()["traces"])
    os.kill(server_of(run.process.pid), signal.SIGKILL)
    wait_until(lambda: gone(url))
    assert run.process.stdin is not None
    run.process.stdin.write(b"\n")
    run.process.stdin.flush()
    wait_until(lambda: not gone(url) and len(Api(url).traces()["traces"]) == 2)
    assert run.end(b"\n").code == 0
    assert gone(url)


def server_of(pid: int) -> int:
    """The process of the server that a process has started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == pid and b"serve" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
            except OSError:
                continue
    raise AssertionError("there is no server")


def test_a_vendor_gets_the_same_with_its_headers(spawn: Spawn, api: Api) -> None:
    theirs = FakeServer()
    try:
        trace = "1a" * 16
        vendor = {"OTEL_EXPORTER_OTLP_ENDPOINT": theirs.url, "LANGSMITH_API_KEY": ""}
        code = f"send('{trace}', **{{'x-vendor-key': 'secret'}})"
        ran = spawn("run", "--forward", "--", *with_send(code), **vendor).end()
        assert ran.code == 0
        assert f"passed on to OpenTelemetry ({theirs.url})" in ran.err
        ((_, path, headers, body),) = theirs.got
        assert (path, headers["x-vendor-key"]) == ("/v1/traces", "secret") and trace.encode() in body
        assert api.trace(f"otel-{trace}")["trace"]["status"] == "completed"
    finally:
        theirs.close()
    ran = spawn("run", "--forward", "--", *with_send("send('1b' * 16)"), **vendor).end()
    assert ran.code == 0
    assert "OpenTelemetry did not take 1 of 1" in ran.err


def test_forward_without_a_vendor_says_so(spawn: Spawn) -> None:
    none = dict.fromkeys(("OTEL_EXPORTER_OTLP_ENDPOINT", "LANGSMITH_API_KEY", "LOGFIRE_TOKEN"), "")
    ran = spawn("run", "-q", "--forward", "--", "true", **none).end()
    assert (ran.code, ran.err.count("the environment names no vendor")) == (0, 1)


# --- the environment ---


def environ_for(given: dict[str, str], *command: str) -> dict[str, str]:
    names = {"root": "http://127.0.0.1:1", "base": "http://127.0.0.1:1/s", "logfire_token": "s"}
    return child_environ(given, command or ("python", "my_agent.py"), **names)  # type: ignore[arg-type]


def test_only_where_things_go_is_changed() -> None:
    given = {
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_EXPORTER_OTLP_HEADERS": "x=y",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://vendor:4318",
        "LANGSMITH_API_KEY": "key",
        "LANGSMITH_RUNS_ENDPOINTS": "[]",
        "PYTHONPATH": "lib",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
        "HOME": "/root",
    }
    child = environ_for(given)
    for name in ("OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_HEADERS", "LANGSMITH_API_KEY", "HOME"):
        assert child[name] == given[name]
    assert "LANGSMITH_RUNS_ENDPOINTS" not in child
    assert child["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:1/s/otlp"
    assert child["LANGSMITH_ENDPOINT"] == "http://127.0.0.1:1/s/langsmith"
    assert child["PYTHONPATH"].split(os.pathsep)[1:] == ["lib"]
    assert child["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http,gen_ai_latest_experimental"
    assert environ_for({})["OTEL_SERVICE_NAME"] == "my_agent"
    assert "OTEL_SERVICE_NAME" not in environ_for({"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=mine"})


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python3.11 -u agents/my_agent.py x.py", "my_agent"),
        ("python -m my_package.agent", "my_package.agent"),
        ("uv run agent.py", "agent"),
        ("node src/index.mjs", "index"),
        ("./run.sh agent.py", "run.sh"),
        ("python", "python"),
    ],
)
def test_a_program_is_called_by_its_script(command: str, name: str) -> None:
    assert program_name(command.split()) == name


def test_the_variables_reach_the_program(spawn: Spawn) -> None:
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    found = json.loads(spawn("run", "-q", "--", *python(code), LOGFIRE_TOKEN="").end().out)
    assert found["LOGFIRE_BASE_URL"].startswith("http://127.0.0.1:")
    assert found["OTEL_BSP_SCHEDULE_DELAY"] == "50"
    assert found["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
