"""The worker processes of one server ask each other for their numbers, so that one scrape has those of all.

A scrape reaches any one of the workers. Each worker has a Unix socket, in a folder that only this user can open, and
answers there with its numbers as JSON. The worker that is scraped asks all others.

Rule 1: a worker that does not answer within ``ANSWER_S`` is left out, which ``worker_up`` says.
Rule 2: a worker that is replaced hands its number on, so that its counters restart as a process's counters do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWER_S = 1.0  # for another worker's answer
LARGEST = 4 * 1024**2  # bytes of an answer


@dataclass(frozen=True, slots=True)
class Place:
    """Which of a server's workers this process is."""

    number: int = 0
    workers: int = 1
    folder: str = ""  # of the workers' sockets; empty if there is only one worker


class Siblings:
    """This worker's socket, and the way to the sockets of the others."""

    def __init__(self, place: Place, numbers: Callable[[], Any]) -> None:
        self.place = place
        self._numbers = numbers  # gives this process's numbers, as JSON can say them
        self._server: asyncio.Server | None = None

    async def begin(self) -> None:
        """Answer the other workers from now on."""
        if self.place.workers > 1:
            self._server = await asyncio.start_unix_server(self._answer, self._path(self.place.number))

    def _path(self, number: int) -> Path:
        return Path(self.place.folder) / f"{number}.sock"

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(json.dumps(self._numbers()).encode())
            await writer.drain()
        writer.close()

    async def ask(self) -> dict[int, Any]:
        """The numbers of each other worker, None for one that does not answer."""
        others = [number for number in range(self.place.workers) if number != self.place.number]
        return dict(zip(others, await asyncio.gather(*map(self._ask, others)), strict=True))

    async def _ask(self, number: int) -> Any:
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    return json.loads(await _whole(reader))
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError):
            return None

    async def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()


async def _whole(reader: asyncio.StreamReader) -> bytes:
    whole = bytearray()
    while len(whole) < LARGEST and (part := await reader.read(LARGEST)):
        whole += part
    return bytes(whole)
