"""The viewer's built files: the page, and its assets, whose names change with their content.

Rule 1: the page loads only from this server, and runs no script and no style that stands in its markup.
Rule 2: its links to assets are relative: below which path a browser finds the page, a proxy may have kept to itself.
"""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
PAGE_HEADERS = POLICY | {"Cache-Control": "no-cache"}
ASSET_HEADERS = POLICY | {"Cache-Control": "public, max-age=31536000, immutable"}
OFFLINE = "offline.html"  # the viewer in one file, into which `export --html` puts traces
NOT_BUILT = "The viewer is not built: run `python web/node.py build`, or install the package with pip.\n"


def web_dir() -> Path:
    """The folder that the build writes the viewer to."""
    return Path(__file__).resolve().parent.parent / "web"


async def page(request: Request) -> Response:
    """``GET /`` and ``GET /traces/{id}``: the viewer. Which trace to show, it reads from its own address."""
    index = web_dir() / "index.html"
    if not index.is_file():
        return PlainTextResponse(NOT_BUILT, 503, headers=PAGE_HEADERS)
    up = "../" if "trace_id" in request.path_params else ""
    html = index.read_text(encoding="utf-8").replace('="/static/', f'="{up}static/')
    return Response(html, media_type="text/html", headers=PAGE_HEADERS)


async def asset(request: Request) -> Response:
    """``GET /static/{name}``: a built file. Its name has a hash of its content, so the file never changes."""
    # Looked up among the names that are there: the file system never gets a name that a client made up
    path = {there.name: there for there in web_dir().glob("*.*")}.get(request.path_params["name"])
    if path is None or path.name.startswith(".") or (path.suffix == ".html" and path.name != OFFLINE):
        raise HTTPException(404, "Not Found")
    if path.name == OFFLINE:
        return FileResponse(path, media_type="text/plain; charset=utf-8", headers=PAGE_HEADERS)
    return FileResponse(path, headers=ASSET_HEADERS)
