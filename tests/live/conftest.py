"""Fixtures for the tests of hints over Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.redis_sides import Lines
from tests.redis_server import MISSING, RedisServer, in_wheel, on_path


@pytest.fixture(scope="module")
def binary() -> str:
    found = on_path() or in_wheel()
    if found is None:
        assert not os.environ.get("CI"), MISSING
        pytest.skip(MISSING)
    return found


@pytest.fixture
def server(binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that is not running yet."""
    made = RedisServer(binary, tmp_path)
    yield made
    made.kill()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)
