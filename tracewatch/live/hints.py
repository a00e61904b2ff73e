"""Hints between processes: one poller in each process notices what the others have written to the same log.

Rule 1: a hint may be late, repeated, or about nothing. A receiver asks the log.
Rule 2: a log that can't be read now is asked again; watchers stay.
Rule 3: the first look is over before anybody reads the log. What another process writes between a watcher's snapshot
        and the first look would be no news to the poll.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import LogError, TracewatchError
from ..log import EventLog, Grown

if TYPE_CHECKING:
    from .hub import Hub
    from .redis import RedisHints

RETRY_S = 0.5


class PollHints:
    """Asks the log every ``poll_ms`` whether it has changed, and tells ``ring`` of the traces that have grown."""

    @classmethod
    async def begun(cls, log: EventLog, ring: Callable[[Sequence[Grown]], None], *, poll_ms: int) -> PollHints:
        """One that has looked already, so that ``ring`` is told of all that is written from now on."""
        try:
            _, seen = await log.changes()
        except TracewatchError:
            seen = None  # nobody else can read it now either; the next look is the first
        return cls(log, ring, poll_ms=poll_ms, seen=seen)

    def __init__(
        self, log: EventLog, ring: Callable[[Sequence[Grown]], None], *, poll_ms: int, seen: Any = None
    ) -> None:
        self._log = log
        self._seen = seen  # what the log has told; older changes are no news
        self._ring = ring
        self._poll_s = poll_ms / 1000
        self.looked_at = time.monotonic()  # when the log last answered
        self.hints = 0  # traces that were found to have grown, this process's own appends included
        self._task = asyncio.create_task(self._run(), name="tracewatch-poll")

    async def _run(self) -> None:
        while True:
            try:
                grown, self._seen = await self._log.changes(self._seen)
                self.looked_at = time.monotonic()
                if grown:
                    self.hints += len(grown)
                    self._ring(grown)
                await asyncio.sleep(self._poll_s)
            except TracewatchError:
                await asyncio.sleep(RETRY_S)
            except (
                Exception
            ) as error:  # a defect of ours is said, and without the poll other processes would be unheard
                context = {"message": "the poll of the log failed; it goes on", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Stop polling."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def load_redis(url: str) -> Callable[[EventLog, Hub], RedisHints]:
    """What starts the hints over the Redis at ``url``. The extra that they need is only looked for here.

    Raises LogError if the extra is not installed or ``url`` can't be used.
    """
    try:
        from .redis import RedisHints, connector
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "redis":
            raise
        raise LogError("--redis needs a package that is not here: pip install 'tracewatch[redis]'") from error
    connector(url)
    return lambda log, hub: RedisHints(log, hub, url)
