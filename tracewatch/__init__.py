"""Record AI agents' runs in a replayable event log, and watch them live. This module has the public names only.

Example: ``with tracewatch.trace("Fix the login bug") as t: t.message("assistant", "Fixed.")`` records a run, and
``for event in tracewatch.watch_sync("run-1"): print(event["event"])`` watches one.

Rule: each name is loaded on its first use, so that ``import tracewatch`` costs an agent next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.call import ModelCall
    from .client.errors import ApiError, Cancelled, Unreachable
    from .client.handles import Goal, Message, ToolCall, carry
    from .client.observe import observe
    from .client.trace import Trace, current, resume, trace
    from .client.watch import ConnectionStatus, SyncWatch, Watch, watch, watch_sync
    from .errors import Expired, ProtocolViolation, TracewatchError, UnknownTrace, WatchError, WatchGap

__version__ = "0.1.0"

_HOME = {
    "ApiError": "client.errors",
    "Cancelled": "client.errors",
    "ConnectionStatus": "client.watch",
    "Expired": "errors",
    "Goal": "client.handles",
    "Message": "client.handles",
    "ModelCall": "client.call",
    "ProtocolViolation": "errors",
    "SyncWatch": "client.watch",
    "ToolCall": "client.handles",
    "Trace": "client.trace",
    "TracewatchError": "errors",
    "UnknownTrace": "errors",
    "Unreachable": "client.errors",
    "Watch": "client.watch",
    "WatchError": "errors",
    "WatchGap": "errors",
    "carry": "client.handles",
    "current": "client.trace",
    "observe": "client.observe",
    "resume": "client.trace",
    "trace": "client.trace",
    "watch": "client.watch",
    "watch_sync": "client.watch",
}

__all__ = [
    "ApiError",
    "Cancelled",
    "ConnectionStatus",
    "Expired",
    "Goal",
    "Message",
    "ModelCall",
    "ProtocolViolation",
    "SyncWatch",
    "ToolCall",
    "Trace",
    "TracewatchError",
    "UnknownTrace",
    "Unreachable",
    "Watch",
    "WatchError",
    "WatchGap",
    "__version__",
    "carry",
    "current",
    "observe",
    "resume",
    "trace",
    "watch",
    "watch_sync",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
