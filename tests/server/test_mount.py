"""Inside somebody else's application: below a path, in Starlette and in FastAPI, with the host's lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import fastapi
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus

from tests.client.conftest import new_trace, senders, spool_dir
from tests.server.wire import Watch, append, end, http, make_trace, ndjson, sse, stored, watching
from tests.support import DEADLINE_S, until
from tracewatch.client.trace import Trace
from tracewatch.log import EventLog
from tracewatch.server import Application, create_app
from tracewatch.server.run import bind
from tracewatch.settings import Settings

__all__ = ["new_trace", "senders", "spool_dir"]  # fixtures
pytestmark = pytest.mark.anyio
PATH = "/deep/tracewatch"
Host = Callable[[Application], Any]


def fastapi_host(app: Application) -> Any:
    host = fastapi.FastAPI(lifespan=app.lifespan)

    @host.get("/mine")
    async def mine() -> dict[str, str]:
        return {"is": "mine"}

    host.mount(PATH, app)
    return host


def starlette_host(app: Application) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(host: Starlette) -> AsyncIterator[None]:
        async with app.lifespan():
            yield

    return Starlette(routes=[Mount(PATH, app)], lifespan=lifespan)


HOSTS: dict[str, Host] = {"fastapi": fastapi_host, "starlette": starlette_host}


class QuietServer(uvicorn.Server):
    """Leaves the signals of the test process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def hosted(app: Any, **options: Any) -> AsyncIterator[str]:
    """A plain uvicorn around an application; its address."""
    bound = bind(Settings(port=0))
    config = uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=2, **options)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve([bound]))
    try:
        await until(lambda: server.started or task.done())
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)
        bound.close()


def log_of(app: Application) -> EventLog:
    log: EventLog = app.state.services.log
    return log


@pytest.mark.parametrize("kind", HOSTS)
@pytest.mark.parametrize("ws", ["auto", "websockets-sansio"])
async def test_everything_works_below_a_path(tmp_path: Path, kind: str, ws: str) -> None:
    app = create_app(Settings(db=str(tmp_path / "log.db")))
    async with hosted(HOSTS[kind](app), ws=ws) as url, http(url + PATH) as client:
        base = url.replace("http", "ws", 1) + PATH
        answer = await client.post("/api/traces", json={"trace_id": "t", "task": "x"})
        assert answer.status_code == 201
        async with watching(base, "t") as watch, watching(base, "t", until="end") as until_end:
            await watch.until("caught_up")
            await append(log_of(app), "t", 700)
            await watch.until_events(700)
            await watch.say({"cancel": {"reason": "enough"}})
            assert (await watch.until("cancel"))["status"] == "cancelling"
            await end(log_of(app), "t")
            assert await until_end.closed() == 1000
            await watch.until_events(702)
            everything = await stored(log_of(app), "t")
            assert watch.events == until_end.events == everything
        async with sse(client, "t") as stream:
            await stream.until("end")
            assert stream.events == everything
        assert (await ndjson(client, "t")).content.splitlines() == everything
        assert (await client.get("/api/traces/nope")).json()["error"] == "unknown_trace"
        assert (await client.get("/nowhere")).json()["error"] == "not_found"
        if kind == "fastapi":
            async with http(url) as mine:
                assert (await mine.get("/mine")).json() == {"is": "mine"}
    assert not app.started


async def test_who_is_connected_when_the_host_ends(tmp_path: Path) -> None:
    app = create_app(Settings(db=str(tmp_path / "log.db")))
    watch: Watch | None = None
    async with contextlib.AsyncExitStack() as stack:
        async with hosted(fastapi_host(app)) as url:
            base = url.replace("http", "ws", 1) + PATH
            await make_trace(log_of(app), "t")
            watch = await stack.enter_async_context(watching(base, "t"))
            await watch.until("caught_up")
        assert await watch.closed() == 1012


async def test_recorders_inside_and_outside(tmp_path: Path, new_trace: Callable[..., Trace]) -> None:
    """One in the host's own process that writes into the file, one that comes over the host's socket."""
    app = create_app(Settings(db=str(tmp_path / "log.db")))
    async with hosted(starlette_host(app)) as url:
        inside = new_trace(f"sqlite:///{tmp_path / 'log.db'}")
        outside = new_trace(url + PATH)
        base = url.replace("http", "ws", 1) + PATH
        for one in (inside, outside):
            async with watching(base, one.trace_id, wait=1) as watch:
                for n in range(50):
                    one.event("thought", n=n)
                one.complete("done")
                assert await one.aflush(DEADLINE_S)
                await watch.until_events(51)
                assert watch.events == await stored(log_of(app), one.trace_id)


async def test_the_forgotten_lifespan_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Settings(db=str(tmp_path / "log.db")))
    host = fastapi.FastAPI()
    host.mount(PATH, app)
    async with hosted(host) as url, http(url + PATH) as client:
        with caplog.at_level(logging.ERROR, logger="tracewatch.server"):
            answer = await client.get("/api/traces")
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert "lifespan=app.lifespan" in answer.json()["message"]
        assert answer.headers["retry-after"] == "1"
        assert "lifespan=app.lifespan" in caplog.text
        with pytest.raises(InvalidStatus):
            async with watching(url.replace("http", "ws", 1) + PATH, "t"):
                pass
    assert not (tmp_path / "log.db").exists()


async def test_it_runs_once_at_a_time_and_again_afterwards(tmp_path: Path) -> None:
    app = create_app(Settings(db=str(tmp_path / "log.db")))
    async with app.lifespan():
        with pytest.raises(RuntimeError, match="runs already"):
            async with app.lifespan():
                pass
        await make_trace(log_of(app), "t")
    async with app.lifespan():
        assert (await log_of(app).snapshot("t")).state.trace_id == "t"


async def test_two_in_one_host(tmp_path: Path) -> None:
    one, two = (create_app(Settings(db=str(tmp_path / f"{n}.db"))) for n in (1, 2))

    @contextlib.asynccontextmanager
    async def lifespan(host: Starlette) -> AsyncIterator[None]:
        async with one.lifespan(), two.lifespan():
            yield

    host = Starlette(routes=[Mount("/one", one), Mount("/two", two)], lifespan=lifespan)
    async with hosted(host) as url, http(url) as client:
        await client.post("/one/api/traces", json={"trace_id": "t", "task": "x"})
        assert (await client.get("/one/api/traces/t")).status_code == 200
        assert (await client.get("/two/api/traces/t")).status_code == 404
