"""The clients here are as quick as they can be: asyncio's debug mode would make them the slow ones."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """asyncio, without debug mode."""
    return "asyncio", {}
