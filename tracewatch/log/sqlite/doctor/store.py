"""Messages while a trace is folded: the ones used last in memory, the others in a temporary file of SQLite's."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

import orjson

from ....model.state import Event, State

KEPT = 2_000  # messages in memory


@dataclass(slots=True)
class Folded:
    """A message as its events say that it now stands."""

    event_id: int  # of its message_added
    updated: bool
    message: dict[str, Any]


class Messages:
    """All messages of one trace. Call ``before`` and ``after`` around each event that is applied to the state."""

    def __init__(self) -> None:
        self.count = 0
        self._memory: dict[str, Folded] = {}
        self._file: sqlite3.Connection | None = None

    def before(self, state: State, event: Event) -> None:
        """Have the message that an event is about to change in the state."""
        if event["event"] == "message_updated" and event["message_id"] not in state.messages:
            known = self.get(event["message_id"])
            if known is not None:
                self._memory[event["message_id"]] = known
                state.messages[event["message_id"]] = known.message

    def after(self, state: State, event: Event) -> None:
        """Note what an event has done to a message."""
        if event["event"] == "message_added":
            message_id, event_id, updated = event["message"]["message_id"], event["event_id"], False
            self.count += 1
        elif event["event"] == "message_updated" and event["message_id"] in state.messages:
            message_id, updated = event["message_id"], True
            event_id = self._memory[message_id].event_id
        else:
            return
        self._memory[message_id] = Folded(event_id, updated, state.messages[message_id])
        if len(self._memory) > KEPT:
            self._spill(state)

    def _spill(self, state: State) -> None:
        if self._file is None:
            self._file = sqlite3.connect("", isolation_level=None)
            self._file.execute(
                "CREATE TABLE m (message_id TEXT PRIMARY KEY, event_id INT, updated INT, body BLOB) WITHOUT ROWID"
            )
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT OR REPLACE INTO m VALUES (?, ?, ?, ?)",
            [(name, one.event_id, one.updated, orjson.dumps(one.message)) for name, one in self._memory.items()],
        )
        self._file.execute("COMMIT")
        self._memory.clear()
        state.messages = {}

    def get(self, message_id: str) -> Folded | None:
        """The message, or None where no event has added it."""
        found = self._memory.get(message_id)
        if found is None and self._file is not None:
            sql = "SELECT event_id, updated, body FROM m WHERE message_id = ?"
            row = self._file.execute(sql, (message_id,)).fetchone()
            found = None if row is None else Folded(row[0], bool(row[1]), orjson.loads(row[2]))
        return found

    def close(self) -> None:
        """Let go of the temporary file."""
        if self._file is not None:
            self._file.close()
