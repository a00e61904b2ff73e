"""Behind the proxies of docs/proxies: each as it stands there, and wrong ones, which the server's log names."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.server.proxy import DOCS, HOW, KINDS, Certificate, certificate, running
from tests.server.wire import SSE, bearer, http, refused
from tests.support import DEADLINE_S, Serving, serving, until
from tracewatch.server.proxies import AGAIN_S, Mistake, Mistakes, path_mistake

pytestmark = pytest.mark.anyio
FILES = {"nginx": "nginx.conf", "caddy": "Caddyfile", "haproxy": "haproxy.cfg", "traefik": "traefik.yml"}
OUT_OF_REACH = {"cloudflared.yml", "traefik-routes.yml"}  # the first needs an account; traefik.yml names the second
WAYS = {"watch.example.org": "", "example.org": "/watch"}
LARGE = "x" * 200_000


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    hosts = "watch.example.org,example.org"
    async with serving(
        tmp_path_factory.mktemp("proxies") / "log.db", proxy="127.0.0.1", allowed_hosts=hosts
    ) as started:
        yield started


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, server: Serving) -> Iterator[list[str]]:
    """What the log says of proxies from now on."""
    server.services.mistakes._said.clear()
    caplog.set_level(logging.WARNING, "tracewatch.proxy")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tracewatch.proxy").addHandler(handler)
    yield lines
    logging.getLogger("tracewatch.proxy").removeHandler(handler)


class Site:
    """A name at a proxy, and how a browser of that name, or a recorder, asks."""

    def __init__(self, host: str, path: str, port: int, shown: Certificate, token: str) -> None:
        self.path, self.port, self.trust = path, port, shown.trust
        self.origin = f"https://{host}:{port}"
        self.headers = {"Origin": self.origin, **bearer(token)}

    def client(self) -> httpx.AsyncClient:
        """A client that finds the name at this machine."""
        transport = httpx.AsyncHTTPTransport(verify=self.trust)
        send = transport.handle_async_request

        async def here(request: httpx.Request) -> httpx.Response:
            request.extensions = {**request.extensions, "sni_hostname": request.url.host}
            request.url = request.url.copy_with(host="127.0.0.1")
            return await send(request)

        transport.handle_async_request = here  # type: ignore[method-assign]
        return httpx.AsyncClient(
            transport=transport, base_url=self.origin + self.path, headers=self.headers, timeout=DEADLINE_S
        )

    def socket(self, path: str) -> Any:
        """A WebSocket, as a page of this name opens it."""
        return connect(
            f"wss{self.origin.removeprefix('https')}{self.path}{path}",
            host="127.0.0.1",
            port=self.port,
            ssl=self.trust,
            additional_headers=self.headers,
            open_timeout=DEADLINE_S,
            proxy=None,
        )


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the proxy has its routes and its certificate, and has found the server."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(httpx.ConnectError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


async def use(site: Site, trace_id: str) -> None:
    """All that a viewer and a recorder do."""
    async with site.client() as client:
        await ready(client)
        assert (await client.get("/static/nothing.js")).status_code == 404  # asked of a page's script: no 403
        made = await client.post("/api/traces", json={"trace_id": trace_id, "task": "x"})
        assert made.status_code == 201, made.text
        async with site.socket(f"/api/traces/{trace_id}/watch") as ws, asyncio.timeout(DEADLINE_S):
            async with client.stream("GET", f"/api/traces/{trace_id}/events", headers={"Accept": SSE}) as stream:
                lines = stream.aiter_lines()
                while "caught_up" not in await anext(lines):
                    pass
                events = [{"event": "thought", "text": LARGE, "n": n} for n in range(15)]  # 3 MB
                assert (await client.post(f"/api/traces/{trace_id}/events", json=events)).status_code == 200
                while "thought" not in await anext(lines):  # it comes while the answer goes on
                    pass
                while "thought" not in str(await ws.recv()):
                    pass
        cancelled = await client.post(f"/api/traces/{trace_id}/cancel", json={})
        assert cancelled.status_code in (200, 202)
        if site.path:
            async with httpx.AsyncClient(transport=client._transport, base_url=site.origin) as bare:
                led = await bare.get(site.path)
                assert led.status_code in (301, 302, 307, 308) and led.headers["location"].endswith(f"{site.path}/")


def test_each_file_is_tried() -> None:
    assert {path.name for path in DOCS.iterdir()} == {*FILES.values(), *OUT_OF_REACH}
    assert KINDS.keys() == FILES.keys() == HOW.keys()


@pytest.mark.parametrize("program", FILES)
async def test_the_configurations_of_the_docs(
    program: str, server: Serving, shown: Certificate, said: list[str], tmp_path: Path
) -> None:
    token = await server.services.log.tokens.create(["admin"])
    text = (DOCS / FILES[program]).read_text()
    async with running(program, text, tmp_path / program, server.url, shown) as port:
        for host, path in WAYS.items():
            await use(Site(host, path, port, shown, token), f"{program}{path.replace('/', '.')}")
    assert said == []


PLAIN = "server {{ listen 80; location {at} {{ proxy_pass http://127.0.0.1:8400{to}; {more} }} }}"
UPGRADE = (
    "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;"
)
HOST = "proxy_set_header Host $http_host;"
WRONG = {
    "no Upgrade": (
        PLAIN.format(at="/", to="", more=HOST),
        "/api/watch",
        "a WebSocket was asked for at /api/watch without",
    ),
    "an Upgrade without Connection": (
        PLAIN.format(at="/", to="", more=f"{HOST} proxy_set_header Upgrade $http_upgrade;"),
        "/api/watch",
        "(Upgrade: websocket, Connection: close)",
    ),
    "a Host without its port": (
        PLAIN.format(at="/", to="", more=f"{UPGRADE} proxy_set_header Host $host;"),
        "/api/watch",
        "an Origin of another port",
    ),
    "a Host of its own": (PLAIN.format(at="/", to="", more=UPGRADE), "/api/watch", "with the Host '127.0.0.1:"),
    "a Host that nobody knows": (
        PLAIN.format(at="/", to="", more=f"{UPGRADE} proxy_set_header Host backend;"),
        "/api/watch",
        "with the Host 'backend', and not with a name of this server",
    ),
    "a path that is left": (
        PLAIN.format(at="/watch/", to="", more=UPGRADE + HOST),
        "/watch/api/watch",
        "a proxy leaves /watch on the path. Have it cut that off, or say it (--root-path /watch)",
    ),
    "a path that is cut": (
        PLAIN.format(at="/api/", to="/", more=UPGRADE + HOST),
        "/api/watch",
        "a request came for /watch, where /api/watch would have been right",
    ),
    "a slash too many": (
        PLAIN.format(at="/watch", to="/", more=UPGRADE + HOST),
        "/watch/api/watch",
        "a proxy puts a slash too many into the path",
    ),
    "a proxy without a name": (
        PLAIN.format(at="/", to="", more=f"{UPGRADE} {HOST} proxy_set_header X-Forwarded-For $remote_addr;"),
        "/api/watch",
        "that --proxy does not name",
    ),
}


async def test_a_proxy_that_is_another_than_the_named_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tracewatch.proxy")
    async with serving(tmp_path / "log.db", proxy="10.0.0.0/8") as server, http(server) as client:
        for _ in range(2):
            answer = await client.get("/api/traces", headers={"X-Forwarded-For": "192.0.2.1"})
            refused(answer, 401, "unauthorized")
    said = [one.getMessage() for one in caplog.records if one.name == "tracewatch.proxy"]
    assert len(said) == 1 and "that --proxy does not name" in said[0]


@pytest.fixture(scope="module")
async def unnamed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    """A server that was told of no proxy."""
    async with serving(tmp_path_factory.mktemp("unnamed") / "log.db") as started:
        yield started


@pytest.mark.parametrize(("text", "path", "words"), WRONG.values(), ids=WRONG)
async def test_a_wrong_one_is_named_once(
    text: str, path: str, words: str, unnamed: Serving, said: list[str], shown: Certificate, tmp_path: Path
) -> None:
    unnamed.services.mistakes._said.clear()
    async with running("nginx", text, tmp_path / "nginx", unnamed.url, shown) as port:
        origin = f"http://localhost:{port}"
        for _ in range(2):  # the second time nothing is said
            try:
                async with connect(f"ws://localhost:{port}{path}", origin=origin, proxy=None):  # type: ignore[arg-type]
                    assert "--proxy" in words
            except InvalidStatus as refused:
                assert refused.response.status_code in (401, 403, 404, 426)
    (line,) = await until(lambda: list(said))
    assert words in line and line.startswith("from 127.0.0.1: ") and "docs/operating.md" in line


def test_the_docs_have_the_words_of_the_log() -> None:
    rows = [
        row.split("|")[1] for row in (DOCS.parent / "operating.md").read_text().splitlines() if row.startswith("| `")
    ]
    told = [[part.strip() for part in piece.split("…")] for row in rows for piece in re.findall("`([^`]*)`", row)]
    for mistake in Mistake:
        words = re.sub(
            r" *{[a-z]+}",
            "",
            mistake.value.format_map(
                {"host": "with the Host", "upgrade": "Upgrade: none,"} | dict.fromkeys(("path", "prefix", "what"), "")
            ),
        )
        assert any(all(part in words for part in parts) for parts in told if len(parts[0]) > 10), (mistake, words)


# --- what is said, and how often -------------------------------------------------------------------------------------


def test_once_in_a_while_for_each_kind_and_peer(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    mistakes = Mistakes(clock=lambda: now[0])
    for _ in range(3):
        for peer in ("10.0.0.1", "10.0.0.2"):
            for kind in (Mistake.CUT, Mistake.DOUBLED):
                mistakes.say(kind, {"client": (peer, 1)}, path="/x" * 1000)
    assert len(caplog.records) == 4 and all(len(record.getMessage()) < 900 for record in caplog.records)
    now[0] = AGAIN_S
    mistakes.say(Mistake.CUT, {"client": ("10.0.0.1", 2)}, path="/x")
    assert len(caplog.records) == 5
    for n in range(3000):
        mistakes.say(Mistake.CUT, {"client": (f"fd00::{n:x}", 1)}, path="/x")
    assert len(mistakes._said) == 1000


OURS = {"/api/traces", "/api/watch", "/static/a.js", "/traces/t"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/watch/api/traces", (Mistake.LEFT, "/watch")),
        ("/a/b/api/traces", (Mistake.LEFT, "/a/b")),
        ("/watch/static/a.js", (Mistake.LEFT, "/watch")),
        ("/watch/traces/t", (Mistake.LEFT, "/watch")),
        ("/watch", (Mistake.CUT, "")),
        ("//api/traces", (Mistake.DOUBLED, "")),
        ("/watch//api/traces", (Mistake.LEFT, "/watch")),
        ("/nothing", None),
        ("/api/nothing", None),
        ("/" * 60_000, None),
        ("/a" * 30_000, None),
        ("", None),
    ],
)
def test_paths(path: str, found: tuple[Mistake, str] | None) -> None:
    assert path_mistake(path, OURS.__contains__) == found
