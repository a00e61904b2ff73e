"""What an ``error`` of the log says, in one line. The viewer's ``web/src/log/error.ts`` says the same.

Rule: any form is read: our recorder's ``{type, message, traceback?}``, a text, and what tools and providers write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from .blobs import shown

_MOST = 2000  # characters of the line
_DEPTH = 4  # of an error in an error
_KINDS = ("type", "name", "code")
_SAYING = ("message", "text", "last_action_error", "detail", "stderr", "reason")
_WITHIN = ("error", "cause", "metadata")


def error_line(error: Any) -> str:
    """An error in one line, of at most 2,000 characters. ``error``: any JSON; "" for None.

    >>> error_line({"type": "TypeError", "message": "* wants int"})
    'TypeError: * wants int'
    """
    return "" if error is None else " ".join(_before_trace(_said(error, _DEPTH))[: 2 * _MOST].split())[:_MOST]


def _before_trace(text: str) -> str:
    """Of a text with a traceback in it what stands before that, else its last line, which says what it was."""
    python = text.find("Traceback (most recent call last)")
    if python >= 0:
        return text[:python].strip() or text.rstrip().rsplit("\n", 1)[-1]
    script = text.find("\n    at ")
    return text[:script] if script > 0 else text


def _said(error: Any, depth: int) -> str:
    error = shown(error)
    if isinstance(error, str):
        return error
    if isinstance(error, Mapping) and depth:
        kind = next((error[key] for key in _KINDS if isinstance(error.get(key), str)), "")
        texts = (shown(error.get(key)) for key in _SAYING)
        said = next((text for text in texts if isinstance(text, str) and text.strip()), None)
        if said is not None:
            plain = not kind or kind in ("text", "error") or said.startswith(kind)
            return said if plain else f"{kind}: {said}"
        for key in _WITHIN:
            if error.get(key) and isinstance(error[key], str | Mapping | list):
                return _said(error[key], depth - 1)
        if kind and kind != "error":
            return str(kind)
    if isinstance(error, list) and error and depth and all(isinstance(one, str | Mapping) for one in error):
        return "; ".join(_said(one, depth - 1) for one in error[:10])
    return orjson.dumps(error).decode()
