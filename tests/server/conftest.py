"""One server for each module of tests; a test that needs other settings starts its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.server.wire import http
from tests.support import Serving, serving


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    """A server with the default settings."""
    async with serving(tmp_path_factory.mktemp("server") / "log.db") as started:
        yield started


@pytest.fixture(scope="module")
async def client(server: Serving) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for it."""
    async with http(server) as opened:
        yield opened
