"""The viewer as the server gives it: built files only, nothing inline, nothing from elsewhere, a strict policy."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from tracewatch.server import page
from tracewatch.server.page import web_dir

pytestmark = pytest.mark.anyio

SOURCES = Path(__file__).resolve().parents[2] / "web" / "src"


async def built(client: httpx.AsyncClient, path: str = "/") -> httpx.Response:
    found = await client.get(path)
    if found.status_code == 503:
        pytest.skip("the viewer is not built: python web/node.py build")
    assert found.status_code == 200
    return found


def links(found: httpx.Response) -> list[str]:
    """The paths of what a page loads, as a browser resolves them."""
    return [found.url.join(name).path for name in re.findall(r'(?:src|href)="([^"]+)"', found.text)]


async def test_the_page_is_the_same_for_every_trace(client: httpx.AsyncClient) -> None:
    of_list, of_one = await built(client), await built(client, "/traces/any")
    assert (
        (await built(client, "/traces/other")).text == of_one.text == of_list.text.replace('="static/', '="../static/')
    )
    assert links(of_list) == links(of_one)


async def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    html = (await built(client)).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://|data:|<script(?![^>]*\ssrc=)", html)
    named = links(await built(client))
    assert len(named) >= 3
    for name in named:
        assert re.fullmatch(r"/static/[\w.-]+", name)
        assert (await client.get(name)).status_code == 200


async def test_its_policy_lets_it_load_only_what_the_server_serves(client: httpx.AsyncClient) -> None:
    headers = (await built(client)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["img-src"] == "'self' blob:"  # pictures of agents are made in the page, of bytes from the log
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_the_page_is_asked_for_again_and_its_assets_never(client: httpx.AsyncClient) -> None:
    found = await built(client)
    assert found.headers["cache-control"] == "no-cache"
    script = next(name for name in links(found) if name.endswith(".js"))
    assert script.startswith("/static/")
    assert "immutable" in (await client.get(script)).headers["cache-control"]


@pytest.mark.parametrize(
    "name", ["index.html", ".built", "..%2Fpy.typed", "%2Fetc%2Fpasswd", "nothing.js", "", "a" * 300, "a%00.js", "%FF"]
)
async def test_nothing_but_assets_is_served(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/static/{name}")).status_code == 404


async def test_a_package_without_its_viewer_says_how_to_build_it(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tracewatch.server.page.web_dir", lambda: tmp_path)
    found = await client.get("/")
    assert found.status_code == 503
    assert "web/node.py build" in found.text


def test_the_sources_never_write_markup() -> None:
    written = {path.name: path.read_text() for path in SOURCES.rglob("*.ts*")}
    assert "main.tsx" in written
    pattern = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|dangerously"
    assert [name for name, text in written.items() if re.search(pattern, text)] == []


def test_what_is_built_asks_nobody_else() -> None:
    scripts = [path.read_text() for path in web_dir().glob("*.js")]
    if not scripts:
        pytest.skip("the viewer is not built: python web/node.py build")
    # Names of XML's vocabularies, and addresses in texts of the libraries' errors, are no requests
    addresses = {found for text in scripts for found in re.findall(r"https?://[\w.-]+", text)}
    assert addresses <= {"http://www.w3.org", "https://github.com"}, addresses


async def test_mounted_elsewhere_the_page_names_its_assets_there() -> None:
    routes = [Route("/traces/{trace_id}", page.page), Route("/static/{name}", page.asset)]
    host = Starlette(routes=[Mount("/watch", routes=routes)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://127.0.0.1") as client:
        named = links(await built(client, "/watch/traces/any"))
        assert named
        for name in named:
            assert name.startswith("/watch/static/")
            assert (await client.get(name)).status_code == 200
