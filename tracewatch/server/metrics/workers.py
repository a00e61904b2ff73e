"""The worker processes of one server ask each other for their numbers, so that one scrape has all of them.

A scrape reaches whichever worker accepts it. Each worker answers on a Unix socket of its own, in a folder that only
this user can open, with its families as JSON; the one that is scraped asks all the others.

Rule 1: a worker that does not answer in time is left out and told so by ``worker_up``; nobody waits for it longer.
Rule 2: a worker keeps its number when it is replaced, so its counters restart as a process's counters do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWER_S = 1.0  # for a sibling's answer
LARGEST = 4 * 1024**2  # bytes of it


@dataclass(frozen=True, slots=True)
class Place:
    """Which of a server's workers this process is."""

    number: int = 0
    workers: int = 1
    folder: str = ""  # of their sockets; none with one worker


class Siblings:
    """This worker's socket, and the way to the others'."""

    def __init__(self, place: Place, numbers: Callable[[], Any]) -> None:
        self.place = place
        self._numbers = numbers  # this process's own, as JSON can say them
        self._server: asyncio.Server | None = None

    async def begin(self) -> None:
        """Answer from now on."""
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
        """The others' numbers by the number of the worker; None for one that does not answer."""
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
        """Answer no more."""
        if self._server is not None:
            self._server.close()


async def _whole(reader: asyncio.StreamReader) -> bytes:
    whole = bytearray()
    while len(whole) < LARGEST and (part := await reader.read(LARGEST)):
        whole += part
    return bytes(whole)
