"""OTLP over gRPC: as over HTTP, on a port of its own. Each call is given to the application as the request it is.

Rule 1: who may send, the limits, the answers and what is counted are those of ``/v1/traces``, ``/v1/logs`` and
        ``/v1/metrics`` (otlp.py): an answer's status becomes gRPC's.
Rule 2: this is the only file that needs the extra ``tracewatch[grpc]``.

Source of the services and of what is tried again: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import orjson
from starlette.types import ASGIApp, Message

from ..errors import LogError
from ..ingest.otlp import words_of_status
from ..settings import Settings
from .otlp import PROTOBUF

SERVICES = {"trace": "traces", "logs": "logs", "metrics": "metrics"}
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.UNAVAILABLE,  # which a client tries again
    503: grpc.StatusCode.UNAVAILABLE,
}
GRACE_S = 2.0
NAMES = (b"authorization", b"x-api-key")  # of the metadata that are passed on


class GrpcDoor:
    """The port. ``app``: the application that answers."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._server: Any = None
        self.port = 0

    async def open(self) -> None:
        """Take calls from now on. Raises LogError if the port can't be had."""
        chosen = self._settings
        options = [
            ("grpc.max_receive_message_length", chosen.max_ingest_bytes),
            ("grpc.so_reuseport", int(chosen.workers > 1)),
        ]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers([_handlers(name, self._export(kind)) for name, kind in SERVICES.items()])
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        address = f"{host}:{chosen.grpc_port}"
        try:
            if chosen.ssl_certfile:
                self.port = server.add_secure_port(address, _credentials(chosen))
            else:
                self.port = server.add_insecure_port(address)
            await server.start()
        except (RuntimeError, OSError) as error:
            raise LogError(f"--grpc-port: {address} can't be listened on: {error}") from error
        self._server = server

    async def close(self) -> None:
        """Finish the calls that are under way, and take no more."""
        if self._server is not None:
            await self._server.stop(GRACE_S)

    def _export(self, kind: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def export(body: bytes, context: Any) -> bytes:
            status, answer = await self._asked(kind, body, context)
            if status == 200:
                return answer
            await context.abort(CODES.get(status, grpc.StatusCode.UNKNOWN), _words(answer) or f"HTTP {status}")
            raise AssertionError("abort raises")

        return export

    async def _asked(self, kind: str, body: bytes, context: Any) -> tuple[int, bytes]:
        """The application's answer: its status and body."""
        metadata = [(name.lower().encode(), _bytes(value)) for name, value in context.invocation_metadata() or ()]
        headers = [(b"host", b"localhost"), (b"content-type", PROTOBUF.encode())]
        headers += [(b"content-length", b"%d" % len(body)), *((name, v) for name, v in metadata if name in NAMES)]
        path = f"{self._settings.root_path}/v1/{kind}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST",
            "scheme": "https" if self._settings.ssl_certfile else "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": _client(context.peer()),
            "server": ("localhost", self.port),
        }
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        answered: list[Message] = []

        async def receive() -> Message:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answered.append(message)

        await self._app(scope, receive, send)
        status = next((int(one["status"]) for one in answered if one["type"] == "http.response.start"), 500)
        return status, b"".join(one.get("body", b"") for one in answered if one["type"] == "http.response.body")


def _handlers(name: str, export: Callable[[bytes, Any], Awaitable[bytes]]) -> Any:
    service = f"opentelemetry.proto.collector.{name}.v1.{name.capitalize()}Service"
    return grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})


def _credentials(settings: Settings) -> Any:
    if settings.ssl_keyfile_password:
        raise LogError("--grpc-port can't use a private key with a password; leave gRPC to a proxy, or the key without")
    chain = Path(settings.ssl_certfile).read_bytes()
    key = Path(settings.ssl_keyfile).read_bytes() if settings.ssl_keyfile else chain
    return grpc.ssl_server_credentials([(key, chain)])


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _client(peer: str) -> tuple[str, int]:
    """The address and port of ``ipv4:127.0.0.1:50000`` or ``ipv6:%5B::1%5D:50000``."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port) if port.isdigit() else 0


def _words(answer: bytes) -> str:
    """What an answer says of why: in JSON, or as google.rpc.Status, whose message is field 2."""
    try:
        said = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return words_of_status(answer)[:1000]
    message = said.get("message") or said.get("error") if isinstance(said, dict) else None
    return str(message.get("message") if isinstance(message, dict) else message or "")[:1000]
