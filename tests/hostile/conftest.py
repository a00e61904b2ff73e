"""Fixtures of the hostile clients. asyncio's debug mode is off, because it would slow these clients down."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio, without debug mode."""
    return "asyncio", {}
