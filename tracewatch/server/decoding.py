"""Bodies that came compressed, decoded in pieces within a bound: a little of one may be gigabytes.

Rule 1: the bound is on what comes out. Nobody decodes further than one byte beyond it.
Rule 2: what is large is decoded in a thread, two at a time, and counts among the bodies that are being received.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from starlette.requests import Request

from ..errors import BadRequest, TooLarge
from .http import read_body

PIECE_BYTES = 256 * 1024
ASIDE_BYTES = 32 * 1024  # a larger body is worked on in a thread
ENCODINGS = ("identity", "gzip", "x-gzip", "deflate")
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # what Python's documentation of zlib says for either header


async def read_decoded(request: Request, limit: int) -> bytes:
    """The request's body, decoded: at most ``limit`` bytes.

    Raises TooLarge, BadRequest for an encoding that is not known or a body that is not in it, and what ``read_body``
    raises.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise BadRequest(f"Content-Encoding: {encoding[:40]!r} is none of {', '.join(ENCODINGS)}")
    body = await read_body(request, limit, compressed=True)
    if encoding == "identity" or not body:
        return body
    if len(body) < 4096:  # at most 1,032 times as much
        return inflated(body, limit)
    return await asyncio.to_thread(inflated, body, limit)


def inflated(body: bytes, limit: int) -> bytes:
    """A gzip or deflate body. Raises TooLarge above ``limit`` bytes, BadRequest for what is neither."""
    whole = bytearray()
    try:
        for piece in _pieces(body):
            whole += piece
            if len(whole) > limit:
                raise TooLarge(f"the body is above the limit of {limit:,} bytes when it is decoded", limit=limit)
    except zlib.error as error:
        raise BadRequest(f"Content-Encoding: the body is not what it says: {error}") from error
    return bytes(whole)


def _pieces(body: bytes) -> Iterator[bytes]:
    while body:  # a gzip file may have several members
        decoder = zlib.decompressobj(GZIP_OR_ZLIB)
        rest = body
        while rest and not decoder.eof:
            yield decoder.decompress(rest, PIECE_BYTES)
            rest = decoder.unconsumed_tail
        if not decoder.eof:
            yield decoder.flush()
            if not decoder.eof:
                raise zlib.error("it ends too early")
        body = decoder.unused_data
