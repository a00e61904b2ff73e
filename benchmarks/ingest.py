"""ingest: agents of real frameworks under ``tracewatch run``: the share of steps seen before they ended, how late, and
what it costs the agent to be watched, also when the server is away.

Needs the agents of ../shared/tools/agents, and in ``$FW/venvs`` the environments that its install.sh makes; what is
not there is left out, with a line. Each step's truth is what the agent itself wrote down of it. "Late" is from the
start of a step to the first event about it in the log, by the clock of this machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tracewatch.cli.own_server import OwnServer, without_settings
from tracewatch.client.api import Api
from tracewatch.model.times import parse_time

from .harness import ROOT, Bench

AGENTS = ROOT.parent / "shared" / "tools" / "agents"
LIMIT_S = 180.0  # of one run
AWAY = "https://127.0.0.1:1"  # nobody answers there, and no server is started for it


@dataclass(frozen=True)
class Framework:
    """One agent. ``venv``: of ``$FW/venvs``, or ``node``."""

    name: str
    venv: str
    script: str
    args: tuple[str, ...] = ()
    plain: bool = False  # the script must not configure a tracer of its own


FRAMEWORKS = (
    Framework("LangGraph", "lc", "ls_agent.py", ("agent",)),
    Framework("pydantic-ai", "pa", "otel_pydantic_ai.py", ("plain",)),
    Framework("pydantic-ai with OpenTelemetry's SDK", "pa", "otel_pydantic_ai.py", ("sdk",)),
    Framework("pydantic-ai with Logfire", "pa", "otel_pydantic_ai.py", ("logfire-token",)),
    Framework("openai-agents", "oa", "otel_openai_agents.py", ("native",)),
    Framework("openai-agents with OpenInference", "oa", "otel_openai_agents.py", ("openinference",)),
    Framework("crewai", "cr", "otel_crewai.py", ("plain",)),
    Framework("google-adk", "adk", "otel_adk.py", ("sdk",), plain=True),
    Framework("strands", "st", "otel_strands.py", plain=True),
    Framework("MCP, a client and a server", "mcp", "otel_mcp.py"),
    Framework("LangGraph, JavaScript", "node", "js/ls_agent.mjs"),
    Framework("Vercel AI SDK", "node", "js/ai_agent.mjs"),
)
COSTS = ("LangGraph", "pydantic-ai", "openai-agents")


@dataclass(frozen=True)
class Seen:
    """Something of a step in the log: when its first event was stored, and when it says to have begun."""

    kind: str
    name: str
    stored_at: float
    started_at: float


@dataclass(frozen=True)
class Ran:
    """A run as the agent saw it: its steps, its time, and the time from its last step to the end of its process."""

    steps: list[dict[str, Any]]
    took_s: float
    exit_s: float


def run(bench: Bench) -> None:
    """Run the benchmark."""
    bench.report.title("ingest: agents under `tracewatch run`: steps seen before they ended, and how late")
    home = Path(os.environ.get("FW") or Path.home() / "agents")
    if not AGENTS.is_dir():
        bench.report.note(f"left out: needs {AGENTS}, which is not here")
        return
    found = [one for one in FRAMEWORKS if _is_there(bench, one, home)]
    server = OwnServer(str(bench.folder / "ingest.db"), 0, without_settings())
    try:
        for framework in found:
            _live(bench, framework, home, server.url)
        for framework in found:
            if framework.name in COSTS:
                _cost(bench, framework, home, server.url)
    finally:
        server.stop()


def _is_there(bench: Bench, framework: Framework, home: Path) -> bool:
    needed = home / "node" / "node_modules" if framework.venv == "node" else home / "venvs" / framework.venv / ".done"
    if not needed.exists():
        bench.report.note(f"{framework.name}: left out, {needed} is not here")
    return needed.exists()


# --- one run ------------------------------------------------------------------------------------------------------


def _command(framework: Framework, home: Path) -> list[str]:
    if framework.venv == "node":
        script = home / "node" / framework.script  # beside node_modules, which is looked for from there
        script.parent.mkdir(exist_ok=True)
        for source in (AGENTS / "js").iterdir():
            (script.parent / source.name).write_bytes(source.read_bytes())
        for name in ("fake_llm.py", "weather.py", "truth.py"):
            (home / "node" / name).write_bytes((AGENTS / name).read_bytes())
        return ["node", str(script), *framework.args]
    return [str(home / "venvs" / framework.venv / "bin" / "python"), str(AGENTS / framework.script), *framework.args]


def _run(bench: Bench, framework: Framework, home: Path, url: str | None) -> Ran | None:
    """Run an agent, with ``url`` under ``tracewatch run``; None, with a line, where it fails."""
    truth, ended = bench.folder / "truth.json", bench.folder / "ended"
    (bench.folder / "home").mkdir(exist_ok=True)
    environ = {
        "FW": str(home),
        "PATH": os.environ["PATH"],
        "HOME": str(bench.folder / "home"),
        "USER": "agent",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "DO_NOT_TRACK": "1",
        "TRUTH": str(truth),
        "PYTHONPATH": str(AGENTS),
        "PYTHONDONTWRITEBYTECODE": "1",
        **({"PLAIN": "1"} if framework.plain else {}),
    }
    # The end of the process is noted from outside of it: exporters keep it at its exit
    command = ["sh", "-c", 'ended=$1; shift; "$@"; code=$?; date +%s.%N > "$ended"; exit $code', "sh", str(ended)]
    command += _command(framework, home)
    if url is not None:
        command = [sys.executable, "-m", "tracewatch", "run", "--url", url, "--exit", "--", *command]
        environ["PYTHONPATH"] = os.pathsep.join([str(AGENTS), str(ROOT)])
    done = subprocess.run(command, env=environ, cwd=bench.folder, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        bench.report.note(f"{framework.name}: left out, its agent ended with {done.returncode}: {last[:200]}")
        return None
    steps = json.loads(truth.read_text())["steps"]
    first, last_at = min(one["started_at"] for one in steps), max(one["ended_at"] for one in steps)
    return Ran(steps, last_at - first, float(ended.read_text()) - last_at)


# --- live ---------------------------------------------------------------------------------------------------------


def _live(bench: Bench, framework: Framework, home: Path, url: str) -> None:
    api = Api(url)
    before = {trace["trace_id"] for trace in _traces(api)}
    ran = _run(bench, framework, home, url)
    if ran is None:
        return
    seen = [one for trace in _traces(api) if trace["trace_id"] not in before for one in _seen(api, trace)]
    late: list[float] = []
    live = 0
    for step, found in _pairs(ran.steps, seen):
        if found.stored_at < step["ended_at"]:
            live += 1
            late.append(max(found.stored_at - step["started_at"], 0.0))
    bench.report.note(f"{framework.name}: {live} of {len(ran.steps)} steps seen before they ended")
    if late:
        label = f"{framework.name}: from the start of a step to its event in the log; max {1000 * max(late):.0f} ms"
        bench.report.absolute(label, [1000 * statistics.median(late)], "ms", at_most=50)


def _traces(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.traces(limit=200)["traces"]
    return found


def _seen(api: Api, trace: dict[str, Any]) -> Iterator[Seen]:
    stored = parse_time(trace["created_at"]) if "created_at" in trace else None
    for body in api.events(trace["trace_id"]):
        event = orjson.loads(body)
        at = parse_time(event["ts"])
        if stored is None:
            stored = at
        message = event.get("message") if event["event"] == "message_added" else None
        if not message or "started_at" not in message:
            continue
        started = parse_time(message["started_at"])
        if message["role"] == "tool":
            yield Seen("tool", str(message["content"].get("tool_name")), at, started)
        elif message.get("item_kind") == "call":
            yield Seen("llm", "", at, started)
    if stored is not None:
        yield Seen("agent", trace["agent_type"], stored, parse_time(trace["started_at"]))


def _pairs(steps: list[dict[str, Any]], seen: list[Seen]) -> Iterator[tuple[dict[str, Any], Seen]]:
    """Each step with what the log has of it: those of a kind (tools: of a name) in the order of their starts.

    Where the log has more or fewer of them, the nearest.
    """
    for what in {(one["kind"], one["name"] if one["kind"] == "tool" else "") for one in steps}:
        mine = [one for one in steps if (one["kind"], one["name"] if one["kind"] == "tool" else "") == what]
        fits = [one for one in seen if (one.kind, one.name if one.kind == "tool" else "") == what]
        mine.sort(key=lambda one: one["started_at"])
        fits.sort(key=lambda one: one.started_at)
        if len(mine) == len(fits):
            yield from zip(mine, fits, strict=True)
            continue
        for step in mine:
            if fits:
                near = min(fits, key=lambda one: abs(one.started_at - step["started_at"]))
                fits.remove(near)
                yield step, near


# --- cost ---------------------------------------------------------------------------------------------------------


def _cost(bench: Bench, framework: Framework, home: Path, url: str) -> None:
    times: dict[str, list[Ran]] = {"alone": [], "watched": [], "away": []}
    for _ in range(bench.pick(5, 1)):
        for way, where in (("alone", None), ("watched", url), ("away", AWAY)):
            ran = _run(bench, framework, home, where)
            if ran is None:
                return
            times[way].append(ran)
        time.sleep(0.1)
    alone = [one.took_s for one in times["alone"]]
    for way, words in (("watched", "watched"), ("away", "watched, the server away")):
        bench.report.ratio(
            f"{framework.name}: its time, {words}", [one.took_s for one in times[way]], alone, "s", names=(way, "alone")
        )
        exits = [one.exit_s for one in times[way]]
        later = statistics.median(exits) - statistics.median(one.exit_s for one in times["alone"])
        bench.report.absolute(f"{framework.name}: its exit later, {words}", [max(later, 0.0)], "s", at_most=0.5)
