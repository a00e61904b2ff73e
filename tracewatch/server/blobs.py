"""Big and binary content over HTTP: ``PUT``, ``GET`` and ``HEAD`` of ``/api/traces/{id}/blobs/{sha256}``.

Rule: what an agent recorded is not trusted. Only what can't run in a page is shown in place; all else is offered to be
      saved, and nothing may be taken for another type than it says.
"""

from __future__ import annotations

import asyncio
import mimetypes
import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import BadRequest, TooSlow, TracewatchError, Unavailable
from ..log import Blob
from ..model.blobs import ANY_TYPE, MEDIA_TYPE
from .http import Services, json_response, services

# Shown by browsers in place, and run by none. All else, such as SVG, HTML, XML and PDF, is to be saved
IN_PLACE = frozenset(
    {
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"),
        *("audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/webm", "audio/mp4", "audio/flac", "audio/aac"),
        *("video/mp4", "video/webm", "video/ogg"),
        *("text/plain", "application/json"),
    }
)
CONTENT_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)


async def put_blob(request: Request) -> Response:
    """``PUT /api/traces/{id}/blobs/{sha256}``: 201, or 200 where the trace has it already."""
    served, params = services(request), request.path_params
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise BadRequest("Content-Encoding: a body is taken as it is, not compressed")
    declared = request.headers.get("content-length", "")
    media_type = request.headers.get("content-type", ANY_TYPE).split(";")[0].strip().lower()
    blob, is_new = await served.log.blobs.put(
        params["trace_id"],
        params["sha256"],
        _chunks(request, served),
        media_type=media_type,
        size=int(declared) if declared.isascii() and declared.isdigit() else None,
    )
    answer = {"trace_id": blob.trace_id, "sha256": blob.sha256, "bytes": blob.bytes, "media_type": blob.media_type}
    return json_response(answer, 201 if is_new else 200)


async def _chunks(request: Request, served: Services) -> AsyncIterator[bytes]:
    """The body as it comes. Raises TooSlow, and Unavailable where too much is being received at once."""
    stall_s, coming = served.settings.request_stall_s, 0
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(stall_s):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise TooSlow(f"of the blob {coming:,} bytes came, then none for {stall_s:g} s") from error
        if chunk is None:
            return
        coming += len(chunk)
        served.coming.bytes += len(chunk)
        try:
            if len(chunk) < served.coming.bytes > served.settings.max_waiting_bytes:
                raise Unavailable("too much is being sent to this server at once; try again later", retry_after_s=1)
            yield chunk  # when it goes on, this chunk has been written
        finally:
            served.coming.bytes -= len(chunk)


async def get_blob(request: Request) -> Response:
    """``GET`` and ``HEAD`` of ``/api/traces/{id}/blobs/{sha256}``: the content, or a range of it."""
    served, params = services(request), request.path_params
    blob = await served.log.blobs.find(params["trace_id"], params["sha256"])
    tag = f'"{blob.sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",  # it never changes, but it may be deleted, and a token revoked
        "Content-Security-Policy": CONTENT_POLICY,
        "Content-Disposition": disposition(blob),
        "Content-Type": f"{blob.media_type}; charset=utf-8" if _is_text(blob.media_type) else blob.media_type,
    }
    if tag in _tags(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    start, end, status = 0, blob.bytes, 200
    asked = request.headers.get("range", "")
    if request.headers.get("if-range", tag) == tag and (part := asked_range(asked, blob.bytes)) is not None:
        start, end = part
        if start >= end:
            whole = {"Content-Range": f"bytes */{blob.bytes}", "Accept-Ranges": "bytes"}
            return Response(status_code=416, headers=whole)
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.bytes}"
    headers["Content-Length"] = str(end - start)
    return BlobResponse(served, blob, start, end, status, headers)


def _is_text(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type == "application/json"


def _tags(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]


def disposition(blob: Blob) -> str:
    """``Content-Disposition``: in place what can't run in a page, all else to be saved. With a name for the file."""
    media_type = blob.media_type if MEDIA_TYPE.fullmatch(blob.media_type) else ANY_TYPE
    ending = mimetypes.guess_extension(media_type) or ""
    return f'{"inline" if media_type in IN_PLACE else "attachment"}; filename="{blob.sha256[:12]}{ending}"'


def asked_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes that a ``Range`` asks for, from and up to; None: all, as also of what names several.

    Nothing at all (an empty range) cannot be given: 416.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    end = min(size, int(match[2]) + 1) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    return start, max(start, end) if start < size else start


class BlobResponse(Response):
    """A content, a piece at a time, at the pace of whoever reads it."""

    def __init__(
        self, served: Services, blob: Blob, start: int, end: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self._served, self._blob, self._start, self._end = served, blob, start, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            try:
                async for part in self._served.log.blobs.read(self._blob, self._start, self._end):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except TracewatchError:
                return  # it was deleted meanwhile: the response is left unfinished, so that it does not look whole
        await send({"type": "http.response.body", "body": b"", "more_body": False})
