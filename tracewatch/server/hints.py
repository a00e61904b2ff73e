"""The hints between processes that a server was asked for. The extra they need is only looked for here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import LogError
from ..live.hub import Hub
from ..log import EventLog

if TYPE_CHECKING:
    from ..live.redis import RedisBell


def load_redis(url: str) -> Callable[[EventLog, Hub], RedisBell]:
    """What starts the hints over the Redis at ``url``.

    Raises LogError if the extra is not installed or ``url`` can't be used.
    """
    try:
        from ..live.redis import RedisBell, connector
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "redis":
            raise
        raise LogError("--redis needs a package that is not here: pip install 'tracewatch[redis]'") from error
    connector(url)
    return lambda log, hub: RedisBell(log, hub, url)
