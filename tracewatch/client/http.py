"""Calls over HTTP/1.1 in the background thread, on a connection that is kept between them. No executor is used.

Rule 1: an answer is read up to ``ANSWER_BYTES`` and not further: what never ends costs that much, and is cut.
Rule 2: every call may be repeated (a producer numbers its events). So one on a kept connection that turns out to be
        closed is made again on a new one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import h11

from .address import Addresses
from .errors import Unreachable
from .target import Target

ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer. ``cut``: the body is longer than ``ANSWER_BYTES``, of which ``body`` is the beginning."""

    status: int
    headers: dict[str, str]  # by their names in lower case
    body: bytes
    cut: bool = False


class HttpConnection:
    """One connection to a server, for one call at a time."""

    def __init__(self, target: Target, addresses: Addresses, tls: ssl.SSLContext | None) -> None:
        self._target = target
        self._addresses = addresses
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._http = h11.Connection(h11.CLIENT)

    async def send(
        self, method: str, path: str, size: int, pieces: Iterator[bytes], headers: dict[str, str]
    ) -> HttpAnswer:
        """The answer to a request with a body of ``size`` bytes, which may come before all of it is sent.

        Raises Unreachable, and what ``pieces`` raises. The connection is to be closed then.
        """
        given = {"Host": self._target.authority, "Accept": "application/json", "Content-Length": str(size)}
        request = h11.Request(
            method=method, target=path, headers=list((given | headers | self._target.headers).items())
        )
        try:
            reader, writer = await self._open()
            writer.write(self._http.send(request) or b"")
            early = asyncio.ensure_future(reader.read(65536))
            try:
                for piece in pieces:
                    writer.write(self._http.send(h11.Data(data=piece)) or b"")
                    drained = asyncio.ensure_future(writer.drain())
                    await asyncio.wait([early, drained], return_when=asyncio.FIRST_COMPLETED)
                    if early.done():
                        drained.cancel()
                        break
                    drained.result()
                else:
                    writer.write(self._http.send(h11.EndOfMessage()) or b"")
                    await writer.drain()
                self._http.receive_data(await early)
            finally:
                early.cancel()
            return await self._answer(reader)
        except (OSError, h11.ProtocolError, EOFError) as error:
            raise Unreachable(str(error) or type(error).__name__) from error

    async def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> HttpAnswer:
        """The answer, whatever its status. Raises Unreachable. The caller sets the time that it may take."""
        given = {"Host": self._target.authority, "Accept": "application/json", "Content-Length": str(len(body))}
        given |= {"Content-Type": "application/json"} | (headers or {}) | self._target.headers
        try:
            request = h11.Request(method=method, target=path, headers=list(given.items()))
            kept = self._streams is not None
            try:
                return await self._exchange(request, body)
            except (OSError, h11.RemoteProtocolError, EOFError):
                self.close()
                if not kept:
                    raise
            return await self._exchange(request, body)
        except (OSError, h11.ProtocolError, EOFError) as error:
            self.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        except BaseException:
            self.close()  # between two answers: nobody may take the rest of this one for the next
            raise

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            sock = await self._addresses.aconnect()
            name = self._target.host if self._tls else None
            self._streams = await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=name)
            self._http = h11.Connection(h11.CLIENT)
        return self._streams

    async def _exchange(self, request: h11.Request, body: bytes) -> HttpAnswer:
        reader, writer = await self._open()
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(self._http.send(part) or b"")
        await writer.drain()
        return await self._answer(reader)

    async def _answer(self, reader: asyncio.StreamReader) -> HttpAnswer:
        status, headers, parts, size = 0, dict[str, str](), list[bytes](), 0
        while size <= ANSWER_BYTES:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                if not data and not status:
                    raise EOFError("the connection was closed without an answer")
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._next()
                return HttpAnswer(status, headers, b"".join(parts))
            elif not isinstance(event, h11.InformationalResponse):
                raise EOFError("the answer was not finished")
        self.close()
        return HttpAnswer(status, headers, b"".join(parts)[:ANSWER_BYTES], cut=True)

    def _next(self) -> None:
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:  # the server closes it
            self.close()

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()
