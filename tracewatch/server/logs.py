"""The log that ``tracewatch serve`` writes to stderr: a line for each record, ``time level process logger: message``.

Rule 1: nothing that comes from outside can begin a line: control characters are escaped.
Rule 2: there is no payload and no token in it. Our loggers say neither. Libraries are heard from WARNING on, as below
        that they log URLs and frames. Of an exception that may quote a payload only the type and the place are
        written, its words only with ``--log-level debug``.
Rule 3: a client can make a library log as often as it likes, such as uvicorn for each request that is none. Of lines
        that are the same but for their values a few a minute are written, and how many there were.
Rule 4: only a process of our own is configured. In an application that ours is mounted in, the host's logging holds.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable

from ..errors import TracewatchError
from .metrics.seen import logger as access

OFTEN, WHILE_S = 5, 60.0
REMEMBERED = 100  # kinds of lines
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_QUOTES_NOTHING = (OSError, TracewatchError)  # exceptions whose words are the system's, or ours


def configure(log_level: str) -> None:
    """Write this process's log to stderr. Our own records are written from ``log_level`` on (debug, info, …)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(words=log_level == "debug"))
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("tracewatch").setLevel(log_level.upper())
    access.setLevel(logging.INFO)  # the access log has a setting of its own


class Seldom(logging.Filter):
    """Lets ``OFTEN`` records of a library through in ``WHILE_S`` that have the same words, but for what is put in."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()  # since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written. The first one after some that were not says how many those were."""
        if record.name.startswith("tracewatch"):
            return True
        key, now = (record.name, str(record.msg)[:100]), self._clock()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= WHILE_S:
            if count > OFTEN:
                record.msg, record.args = f"{record.getMessage()} (and {count - OFTEN:,} times more before)", ()
            since, count = now, 0
        self._seen[key] = since, count + 1
        self._seen.move_to_end(key)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return count < OFTEN


class LineFormatter(logging.Formatter):
    """The format of a record. ``words``: the words of any exception are written."""

    def __init__(self, *, words: bool) -> None:
        super().__init__()
        self._words = words

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it, indented, where an exception came from."""
        message = record.getMessage()
        if record.name == access.name and message.startswith("{"):
            return message  # JSON, with a time of its own
        if record.name == "asyncio" and not self._words:
            message = message.partition("\n")[0]  # the next lines have the exception's words
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{at}.{int(record.msecs):03d}Z {record.levelname} {record.process} {record.name}: {escape(message)}"
        failed = record.exc_info[1] if record.exc_info else None
        return "\n".join([head, *(self._lines(failed) if failed is not None else ())])

    def _lines(self, error: BaseException, depth: int = 0) -> list[str]:
        lines: list[str] = []
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None and depth < 5:
            lines += [*self._lines(cause, depth + 1), "  which led to:"]
        for frame in traceback.extract_tb(error.__traceback__):
            lines.append(f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}")
        said = str(error) if self._words or isinstance(error, _QUOTES_NOTHING) else ""
        lines.append(f"  {type(error).__qualname__}{': ' if said else ''}{escape(said[:1000])}")
        if isinstance(error, BaseExceptionGroup) and depth < 5:
            for one in error.exceptions[:10]:
                lines += ["  with:", *self._lines(one, depth + 1)]
        return lines


def escape(text: str) -> str:
    """``text`` with its control characters and line breaks as escapes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
