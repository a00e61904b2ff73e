"""Big and binary contents on their way into the log: each is sent before the first event that names it.

Rule 1: what the log or a proxy does not take is put back into its event, as much of it as fits, and one warning says
        so. A server of the version before, which has no place for contents, so gets what it got before.
Rule 2: sending a content again is harmless. So one that the log does not have after all is sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from ..model import fit
from ..model.blobs import ANY_TYPE, MARK, MEDIA_TYPE
from ..model.contents import references_in, replaced, restored, told
from .errors import ApiError, Unreachable
from .lines import Uplink
from .outbox import Outbox

CUTS = 8  # in vain are enough, where the server can be reached
AGAIN = 3  # times that a content is sent which the log does not have after that
OLDER = frozenset({"not_found", "method_not_allowed"})  # what a server says that has no such route
TOO_MUCH = frozenset({404, 405, 411, 413, 422, 501})  # statuses of refusals that another try does not change


class Contents:
    """The contents of one outbox."""

    def __init__(self, outbox: Outbox, uplink: Uplink) -> None:
        self._outbox = outbox
        self._uplink = uplink
        self._there: set[str] = set()  # what the log has
        self._again: dict[int, int] = {}  # how often an event was refused for a content that it names
        self._cuts: dict[str, int] = {}  # how often sending a content has ended without an answer
        self._older = False  # the server has no place for contents

    async def sent(self, first: int, bodies: Sequence[bytes]) -> bool:
        """Send what these events, from seq ``first`` on, name and the log does not have.

        False: one of them was replaced, as the log does not take its content. Raises ApiError, Unreachable.
        """
        for seq, body in enumerate(bodies, first):
            if MARK not in body:
                continue
            for ref in references_in(orjson.loads(body)):
                if ref["blob"] not in self._there and not await self._send(seq, body, ref):
                    return False
        return True

    async def _send(self, seq: int, body: bytes, ref: dict[str, Any]) -> bool:
        path = self._outbox.blob_file(ref["blob"])
        if path is None:
            return True  # the log may have it: from another process, or from before
        if self._older:
            self._put_back(seq, body, {ref["blob"]})
            return False
        media_type = ref["media_type"] if MEDIA_TYPE.fullmatch(ref["media_type"]) else ANY_TYPE
        try:
            await self._uplink.put_blob(self._outbox.trace_id, ref["blob"], media_type, path)
        except Unreachable as error:  # while there is a line to the server
            self._cuts[ref["blob"]] = self._cuts.get(ref["blob"], 0) + 1
            if self._cuts[ref["blob"]] < CUTS:
                raise
            why = f"the connection is cut whenever it is sent, of {ref['bytes']:,} bytes ({error.message})"
            self._put_back(seq, body, {ref["blob"]}, why)
            return False
        except OSError as error:
            self._put_back(seq, body, {ref["blob"]}, f"it can't be read: {error.strerror}")
            return False
        except ApiError as error:
            if error.status not in TOO_MUCH or error.code in ("unknown_trace", "unavailable"):
                raise
            self._older = error.code in OLDER
            self._put_back(seq, body, {ref["blob"]}, "" if self._older else error.message)
            return False
        self._there.add(ref["blob"])
        return True

    def again(self, seq: int, body: bytes) -> None:
        """An event was refused as the log does not have what it names: send that again, or put it back."""
        self._again[seq] = self._again.get(seq, 0) + 1
        names = {ref["blob"] for ref in references_in(orjson.loads(body))}
        self._there -= names
        gone = names if self._again[seq] > AGAIN else {name for name in names if self._outbox.blob_file(name) is None}
        if gone:
            self._put_back(seq, body, gone, "it is not there any more")

    def _put_back(self, seq: int, body: bytes, names: set[str], why: str = "") -> None:
        """Put contents of an event back into it. What one event does not hold of a text goes on in later ones."""
        if why:
            said = "trace %s: content is recorded only in part: %s"
            self._outbox.warn_once("content", said, self._outbox.trace_id, why)
        whole = replaced(orjson.loads(body), lambda ref: self._value(ref) if ref["blob"] in names else ref)
        event, *more = fit.fit(whole)
        self._outbox.replace(seq, orjson.dumps(event))
        if more:
            self._outbox.accept([orjson.dumps(one) for one in more])

    def _value(self, ref: dict[str, Any]) -> Any:
        path = self._outbox.blob_file(ref["blob"])
        try:
            data = None if path is None else path.read_bytes()
        except OSError:
            data = None
        if data is None or (len(data) > fit.EVENT_BYTES // 2 and not is_text(ref)):
            return told(ref)
        return restored(ref, data)


def is_text(ref: dict[str, Any]) -> bool:
    """Whether a reference stands for text or JSON, of which the beginning is of use."""
    return "form" not in ref and (ref["media_type"].startswith("text/") or ref["media_type"] == "application/json")
