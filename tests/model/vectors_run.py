"""The vectors of ``vectors/*.json`` read, matched and run: what ``vectors/README.md`` says, in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tracewatch.model.frames import snapshot_values
from tracewatch.model.state import State

FOLDER = Path(__file__).parent / "vectors"
REFUSED_TS = "2026-11-20T09:00:00.000Z"
HEAD = ["event", "event_id", "trace_id", "ts", "occurred_at"]


@dataclass(frozen=True)
class Case:
    """One case of one file."""

    subject: str
    name: str
    given: dict[str, Any]
    steps: list[dict[str, Any]]
    expect: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.subject}: {self.name}"

    def begin(self) -> State:
        """The state the case begins with."""
        return State(**self.given["trace"])

    def stored(self) -> list[dict[str, Any]]:
        """The events that are stored, in order."""
        return [step["stored"] for step in self.steps if "stored" in step]


def read_cases() -> list[Case]:
    """Every case of every file."""
    cases: list[Case] = []
    for path in sorted(FOLDER.glob("*.json")):
        content = orjson.loads(path.read_bytes())
        cases += [
            Case(content["subject"], case["name"], case["given"], case["steps"], case["expect"])
            for case in content["cases"]
        ]
    return cases


def shown(state: State) -> dict[str, Any]:
    """What a state shows of itself, by the names an ``expect`` uses, after a trip through JSON."""
    values = snapshot_values(state, lease_alive=True)
    values["messages"] = list(state.messages.values())
    values["steps"] = list(state.steps.values())
    result: dict[str, Any] = orjson.loads(orjson.dumps(values))
    return result


def without_messages(values: dict[str, Any]) -> dict[str, Any]:
    """What a fold from a snapshot can know."""
    return {key: value for key, value in values.items() if key != "messages"}


def mismatches(expected: Any, actual: Any, path: str = "") -> list[str]:
    """Where ``actual`` does not match ``expected``; empty if it does."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = [f"{path}.{key}: missing" for key in expected if key not in actual]
        for key in expected.keys() & actual.keys():
            found += mismatches(expected[key], actual[key], f"{path}.{key}")
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{path}: {len(expected)} expected, there are {len(actual)}: {actual}"]
        return [
            m for n, (e, a) in enumerate(zip(expected, actual, strict=True)) for m in mismatches(e, a, f"{path}.{n}")
        ]
    same = expected == actual and isinstance(expected, bool) == isinstance(actual, bool)
    return [] if same else [f"{path}: expected {expected!r}, is {actual!r}"]
