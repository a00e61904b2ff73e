"""Behind a proxy below a path, whether the proxy takes the path off the requests or leaves it there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client.conftest import new_trace, senders, spool_dir
from tests.server.wire import http, sse, watching
from tests.sub_path import PATH, below_a_path
from tests.support import Serving, serving
from tracewatch.client.trace import Trace

__all__ = ["new_trace", "senders", "spool_dir"]  # fixtures
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    async with serving(tmp_path_factory.mktemp("server") / "log.db", root_path=PATH) as started:
        yield started


@pytest.fixture(scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    """A server that was told nothing of the path."""
    async with serving(tmp_path_factory.mktemp("server") / "log.db") as started:
        yield started


@pytest.fixture(params=["cut", "left", "cut though told"])
async def url(request: pytest.FixtureRequest, server: Serving, plain: Serving) -> AsyncIterator[str]:
    """The server's address at the proxy."""
    backend = plain if request.param == "cut" else server
    async with below_a_path(backend.url, cut=request.param != "left") as address:
        yield address


async def test_the_page_finds_its_files(url: str) -> None:
    async with http(url) as client:
        for path in ("/", "/traces/any"):
            found = await client.get(path)
            if found.status_code == 503:
                pytest.skip("the viewer is not built: python web/node.py build")
            named = [found.url.join(name) for name in re.findall(r'(?:src|href)="([^"]+)"', found.text)]
            assert len(named) >= 3
            for name in named:
                assert name.path.startswith(f"{PATH}/static/")
                assert (await client.get(name)).status_code == 200
        assert (await client.get("/static/offline.html")).status_code == 200


async def test_recorder_watchers_and_command_line(
    url: str, new_trace: Callable[..., Trace], request: pytest.FixtureRequest
) -> None:
    trace_id = re.sub(r"\W", "-", request.node.name)
    trace = new_trace(url, trace_id=trace_id)
    trace.message("assistant", "from below")
    assert await asyncio.to_thread(trace.flush)
    async with watching(url.replace("http", "ws", 1), trace_id, until="end") as watch:
        await watch.until_events(1)
        trace.complete()
        assert await asyncio.to_thread(trace.flush)
        assert await watch.closed() == 1000
    async with http(url) as client, sse(client, trace_id) as stream:
        await stream.until("end")
        assert stream.events == watch.events

    def command(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "tracewatch", *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert trace_id in await asyncio.to_thread(command, "ls", "--url", url)
    assert "from below" in await asyncio.to_thread(command, "tail", f"{url}/traces/{trace_id}")


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/traces/a:b/?q=1", "/traces/a:b?q=1"),
        ("/api/traces/", "/api/traces"),
        ("/api/traces/%3Fx/events/", "/api/traces/%3Fx/events"),
    ],
)
async def test_a_slash_too_many_leads_to_the_path_below(url: str, path: str, leads_to: str) -> None:
    async with http(url) as client:
        answer = await client.get(path)
        assert answer.status_code == 307
        assert not re.match(r"/|\w+:", answer.headers["location"])  # relative: the proxy alone knows the rest
        assert str(answer.next_request.url if answer.next_request else "") == url + leads_to


async def test_more_slashes_too_many(url: str) -> None:
    async with http(url) as client:
        assert (await client.get("/traces/x//")).headers["location"] == "../../x"


async def test_the_path_without_its_slash(server: Serving) -> None:
    async with below_a_path(server.url, cut=False) as url, httpx.AsyncClient() as client:
        answer = await client.get(f"{url}?q=1")
        assert str(answer.next_request.url if answer.next_request else "") == f"{url}/?q=1"
        assert (await client.get(f"{url}er")).status_code == 404


async def test_what_looks_at_the_server_itself_needs_no_path(server: Serving) -> None:
    async with http(server) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get(f"{PATH}/readyz")).status_code == 200


async def test_a_foreign_page_is_still_refused(url: str) -> None:
    async with http(url) as client:
        answer: Any = await client.get("/api/traces", headers={"Origin": "https://elsewhere.example"})
        assert answer.status_code == 403


def test_what_is_no_path(tmp_path: Path) -> None:
    from tracewatch.errors import InvalidField
    from tracewatch.settings import Settings

    for text, path in {"/watch": "/watch", "/a/b.c/": "/a/b.c", "/": ""}.items():
        assert Settings.from_env({"HOME": str(tmp_path), "TRACEWATCH_ROOT_PATH": text}).root_path == path
    for text in ("watch", "//watch", "/a b", "/%41", "http://host/watch", '/"'):
        with pytest.raises(InvalidField, match="a path such as /watch"):
            Settings.from_env({"HOME": str(tmp_path), "TRACEWATCH_ROOT_PATH": text})
