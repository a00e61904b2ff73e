"""Bodies that came compressed, decoded in pieces within a bound: a little of one may be gigabytes.

Rule 1: the bound is on what comes out. Nobody decodes further than one byte beyond it.
Rule 2: what is large is decoded in a thread, two at a time, and counts among the bodies that are being received.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Iterator

from starlette.requests import Request

from ..errors import BadRequest, TooLarge
from .http import read_body

PIECE_BYTES = 256 * 1024
ASIDE_BYTES = 32 * 1024  # a larger body is worked on in a thread
ENCODINGS = ("identity", "gzip", "x-gzip", "deflate", "zstd")
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # what Python's documentation of zlib says for either header
WINDOW_LOG = 23  # 8 MiB, the most that zstd may ask for over HTTP: https://www.rfc-editor.org/rfc/rfc9659


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
    if len(body) <= ASIDE_BYTES:
        try:
            return decoded(body, encoding, min(limit, ASIDE_BYTES))
        except TooLarge:
            pass  # a little of it is much
    return await asyncio.to_thread(decoded, body, encoding, limit)


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """A body of this encoding, decoded. Raises TooLarge above ``limit`` bytes, BadRequest for what is not in it."""
    whole = bytearray()
    try:
        for piece in _unzstd(body) if encoding == "zstd" else _inflated(body):
            whole += piece
            if len(whole) > limit:
                raise TooLarge(f"the body is above the limit of {limit:,} bytes when it is decoded", limit=limit)
    except (zlib.error, EOFError) as error:
        raise BadRequest(f"Content-Encoding: the body is not what it says: {error}") from error
    return bytes(whole)


def _unzstd(body: bytes) -> Iterator[bytes]:
    if sys.version_info >= (3, 14):  # loaded when the first such body comes
        from compression import zstd
    else:
        from backports import zstd
    rest = body
    try:
        while rest:  # there may be several frames
            decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
            yield decoder.decompress(rest, PIECE_BYTES)
            while not decoder.eof:
                if decoder.needs_input:
                    raise EOFError("it ends too early")
                yield decoder.decompress(b"", PIECE_BYTES)
            rest = decoder.unused_data
    except zstd.ZstdError as error:
        raise EOFError(str(error)) from error


def _inflated(body: bytes) -> Iterator[bytes]:
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
