"""A page of another origin, in a real browser: it can't read, can't write, can't open a socket, can't frame the viewer.

There are two kinds of such pages: one sends requests to our address from its own; the other has a name of its own that
is made to point at our address (DNS rebinding).
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.browser.conftest import launched
from tests.browser.runs import Run, said
from tests.support import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SECRET = "the secret plan"

# Each gives "blocked", or what it got hold of
ATTEMPTS = {
    "read": "fetch(url('/api/traces')).then(r => r.text())",
    "read without asking": "fetch(url('/api/traces'), {mode: 'no-cors'}).then(r => r.text()).then(t => t || 'blocked')",
    "read with a made-up header": "fetch(url('/api/traces'), {headers: {'X-A': 'b'}}).then(r => r.text())",
    "write": "fetch(url('/api/traces'), {method: 'POST', body: JSON.stringify({task: 'evil'})}).then(r => r.text())",
    "write without asking": """fetch(url('/api/traces'), {method: 'POST', mode: 'no-cors', body: '{"task": "evil"}'})
        .then(() => 'blocked')""",
    "append without asking": """fetch(url(`/api/traces/${run}/events`),
        {method: 'POST', mode: 'no-cors', body: '{"event": "evil"}'}).then(() => 'blocked')""",
    "cancel without asking": """fetch(url(`/api/traces/${run}/cancel`), {method: 'POST', mode: 'no-cors', body: '{}'})
        .then(() => 'blocked')""",
    "delete": "fetch(url(`/api/traces/${run}`), {method: 'DELETE'}).then(r => r.text())",
    "beacon": "Promise.resolve(navigator.sendBeacon(url('/api/traces'), '{\"task\": \"evil\"}') && 'blocked')",
    "event stream": """new Promise(done => { const s = new EventSource(url(`/api/traces/${run}/events`));
        s.onmessage = e => done(e.data); s.addEventListener('connected', e => done(e.data));
        s.onerror = () => { s.close(); done('blocked'); }; })""",
    "watch": """new Promise(done => { const s = new WebSocket(url('/api/watch').replace('http', 'ws'));
        s.onopen = () => done('open'); s.onerror = () => done('blocked'); })""",
    "watch with subprotocols": """new Promise(done => {
        const s = new WebSocket(url(`/api/traces/${run}/watch`).replace('http', 'ws'), ['tracewatch.v1', 'bearer.x']);
        s.onopen = () => done('open'); s.onerror = () => done('blocked'); })""",
    "record": """new Promise(done => { const s = new WebSocket(url(`/api/traces/${run}/record`).replace('http', 'ws'));
        s.onopen = () => done('open'); s.onerror = () => done('blocked'); })""",
    "script": """new Promise(done => { const s = document.createElement('script'); s.src = url('/api/traces');
        s.onload = () => done('loaded'); s.onerror = () => done('blocked'); document.head.append(s); })""",
    "picture": """new Promise(done => { const i = new Image(); i.onload = () => done('loaded');
        i.onerror = () => done('blocked'); i.src = url(`/api/traces/${run}`); })""",
    "frame": """new Promise(done => { const f = document.createElement('iframe'); f.src = url('/');
        f.onload = () => { try { done(f.contentDocument ? f.contentDocument.body.innerText || 'blocked' : 'blocked') }
          catch { done('blocked') } }; document.body.append(f); })""",
    "form": """new Promise(done => { const f = document.createElement('iframe'); f.name = 'sink';
        document.body.append(f);
        const form = document.createElement('form'); form.method = 'post'; form.enctype = 'text/plain';
        form.target = 'sink'; form.action = url('/api/traces');
        form.innerHTML = `<input name='{"task":"evil","a":"' value='"}'>`; document.body.append(form);
        f.onload = () => done('blocked'); form.submit(); setTimeout(() => done('blocked'), 2000); })""",
}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of somebody else's page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><body>")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
async def rebound() -> AsyncIterator[Browser]:
    """A Chromium for which evil.example is this machine."""
    async with async_playwright() as playwright:
        browser = await launched(playwright, "--host-resolver-rules=MAP evil.example 127.0.0.1")
        yield browser
        await browser.close()


async def attempt(page: Page, server: str, run: Run, code: str) -> str:
    """What the page got, or "blocked"."""
    script = f"""([server, run]) => {{
        const url = path => server + path;
        return Promise.resolve({code}).catch(error => 'blocked');
    }}"""
    got: str = await page.evaluate(script, [server, run.id])
    return got


async def refused_everywhere(page: Page, server: ServerProcess, address: str) -> None:
    """Every attempt from this page against ``address`` fails and changes nothing."""
    run = Run(server.url, task=SECRET)
    run.add(said(SECRET))
    before = (run.api.trace(run.id)["trace"], len(run.api.traces()["traces"]))
    for name, code in ATTEMPTS.items():
        got = await attempt(page, address, run, code)
        assert SECRET not in got, name
        assert got == "blocked" or "forbidden" in got, f"{name}: {got[:200]}"
    assert (run.api.trace(run.id)["trace"], len(run.api.traces()["traces"])) == before


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "other.localhost"])
async def test_a_page_of_another_origin(browser: Browser, server: ServerProcess, elsewhere: int, host: str) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"http://{host}:{elsewhere}/")
    await refused_everywhere(page, server, server.url)
    await context.close()


async def test_a_page_whose_name_points_here(rebound: Browser, server: ServerProcess, elsewhere: int) -> None:
    context = await rebound.new_context()
    page = await context.new_page()
    port = urlsplit(server.url).port
    answer = await page.goto(f"http://evil.example:{port}/")
    assert answer is not None and answer.status == 403
    # ... as its name would have pointed to its own server when the page was loaded
    await page.route(f"http://evil.example:{port}/page", lambda route: route.fulfill(body="<!doctype html><body>"))
    await page.goto(f"http://evil.example:{port}/page")
    await refused_everywhere(page, server, f"http://evil.example:{port}")
    await context.close()


async def test_the_page_itself_is_none_of_these(browser: Browser, server: ServerProcess) -> None:
    """The attempts are attempts: from our own page they succeed."""
    run = Run(server.url, task=SECRET)
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(server.url)
    for name in ("read", "watch", "record", "event stream"):
        assert await attempt(page, server.url, run, ATTEMPTS[name]) != "blocked", name
    await context.close()
