"""Recorders for one test: each test has its own sender, which ends with it, and its own spool folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tracewatch.client import trace as trace_module
from tracewatch.client.sender import Senders
from tracewatch.client.trace import Trace


class TestSenders(Senders):
    """Senders that are ended by the test and not by the process."""

    __test__ = False

    def _hook(self) -> None:
        pass

    def end(self) -> None:
        """What the exit of a process does."""
        self._at_exit()


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestSenders]:
    """The senders of this test."""
    monkeypatch.setenv("TRACEWATCH_FLUSH_S", "1")
    made = TestSenders()
    monkeypatch.setattr(trace_module, "SENDERS", made)
    yield made
    made.end()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def new_trace(senders: TestSenders, spool_dir: Path) -> Callable[..., Trace]:
    """``tracewatch.trace`` for a test: ``new_trace(url, …)``."""

    def new(url: str, task: str = "task", **options: Any) -> Trace:
        return trace_module.trace(task, url=url, **{"spool_dir": str(spool_dir), **options})

    return new
