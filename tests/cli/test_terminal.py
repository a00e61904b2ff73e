"""JSON written to a terminal: what an agent wrote can't steer it. In a pipe every byte is the stored one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.cli.conftest import Spawned, done, record, thought
from tests.cli.test_control import question
from tests.cli.test_prompt import Terminal, terminal
from tracewatch.client.api import Api

__all__ = ["terminal"]  # a fixture

STEERING = "\x7f \x9b31m \x9d8;; \u202egpj.exe \u2066 \u200b \ufeff \U000e0041"
COMMANDS = [
    ("tail", "t", "-o", "ndjson"),
    ("tail", "t", "-o", "json"),
    ("export", "t"),
    ("ls", "-o", "ndjson"),
    ("ls", "-o", "json"),
    ("inputs", "-o", "ndjson"),
    ("inputs", "-o", "json"),
]


@pytest.fixture
def trace(api: Api, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    trace_id = "t-" + "".join(c for c in name if c.isalnum())
    record(api, f"{trace_id}-asks", question(words=STEERING))
    return record(api, trace_id, thought(STEERING), done(), task=STEERING)


def lines(written: str, args: tuple[str, ...]) -> list[Any]:
    return [orjson.loads(part) for part in ([written] if "json" in args else written.split("\n")) if part.strip()]


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_a_terminal_gets_escapes(
    terminal: Callable[..., Terminal], spawn: Callable[..., Spawned], trace: str, args: tuple[str, ...]
) -> None:
    asked = tuple(trace if arg == "t" else arg for arg in args)
    shown = terminal(*asked)
    assert shown.end() == 0
    piped = spawn(*asked).end()
    assert piped.code == 0
    assert not [sign for sign in STEERING if sign != " " and not sign.isascii() and sign in shown.seen]
    assert "\x7f" not in shown.seen
    if args[:2] != ("tail", "t") or "json" not in args:  # several documents, one after the other
        assert lines(shown.seen, args) == lines(piped.out.decode(), args)
    if "json" not in args:
        assert STEERING.encode() in piped.out  # byte for byte
