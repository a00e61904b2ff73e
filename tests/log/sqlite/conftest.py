"""Fixtures of the tests of SQLite's file, which run on SQLite only."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a log can be made."""
    return f"sqlite:///{tmp_path / 'log.db'}"
