"""The opening of WebSockets by our clients, and the end of those that are not WebSockets.

Rule 1: no redirect is followed: a token goes to the server it was made for, and nowhere else.
Rule 2: a connection that has failed is read no further. ``websockets`` reads and discards until the other side closes
        it: for ever, from one that sends for ever.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection as SyncConnection
from websockets.sync.client import connect as connect_sync

FRAME_BYTES = 16 * 1024 * 1024  # of the server's, which says at most 512 KiB at once, but for a larger event


def _failed(protocol: ClientProtocol) -> bool:
    return protocol.handshake_exc is not None or protocol.parser_exc is not None


class Handshake(connect):
    """``websockets.connect`` by these rules."""

    def __init__(self, uri: str, **options: Any) -> None:
        super().__init__(uri, create_connection=_Connection, max_size=FRAME_BYTES, **options)

    def process_redirect(self, exc: Exception) -> Exception | str:
        """The refusal as it is: InvalidStatus."""
        return exc


class _Connection(ClientConnection):
    def data_received(self, data: bytes) -> None:
        if _failed(self.protocol):
            self.transport.abort()
        else:
            super().data_received(data)


def open_sync(uri: str, **options: Any) -> SyncConnection:
    """``websockets.sync.client.connect`` by these rules; only a proxy of the environment may lead to a redirect."""
    # As a context manager, because the library is about to change the other form.
    try:
        opened: SyncConnection = connect_sync(
            uri, create_connection=_SyncConnection, max_size=FRAME_BYTES, **options
        ).__enter__()
    except ValueError as error:  # a redirect, which it can't follow over the given connection
        if isinstance(error.__cause__, InvalidStatus):
            raise error.__cause__ from None
        raise
    return opened


class _SyncConnection(SyncConnection):
    def __init__(self, sock: socket.socket, protocol: ClientProtocol, **options: Any) -> None:
        receive = protocol.receive_data

        def received(data: bytes | bytearray) -> None:
            if _failed(protocol):
                with suppress(OSError):  # closed meanwhile
                    sock.shutdown(socket.SHUT_RDWR)
            else:
                receive(data)

        protocol.receive_data = received  # type: ignore[method-assign]
        super().__init__(sock, protocol, **options)
