"""Event lines on a terminal or in a pipe.

Rule 1: everything printed has passed ``text.escape``. The only escape sequences are the colors added here.
Rule 2: in a pipe an event is one line, never cut or wrapped, with its full time. On a terminal it is made to fit, and a
        line above the first event of a day says which day it is and in which zone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from rich.cells import cell_len

from . import text
from .lines import EventLine
from .times import clock_of, day_of, is_today

_SGR = {
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "dim": "2",
    "bold": "1",
}
_NARROW = 72  # cells; a narrower terminal shows neither goals nor milliseconds
_TINY = 40  # cells; a narrower terminal shows no time either
_OTHER_ROWS = 1
_BLANK_LINES = re.compile(r"\n\s*\n")
_ROWS = {  # the most rows of one event on a terminal, by role; a pipe gets the whole text
    **dict.fromkeys(("assistant", "message"), 40),
    **dict.fromkeys(("user", "trace", "question", "answer"), 20),
    **dict.fromkeys(("goal", "agent", "system"), 5),
    "tool": 3,
}


class Screen:
    """Writes event lines. ``width``: the terminal's cells, None for a pipe.

    ``agents`` holds (depth, agent type) of each known trace, by trace_id.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        color: bool,
        width: Callable[[], int] | None,
        by_agent: bool = False,
        sought: re.Pattern[str] | None = None,
    ) -> None:
        self._write = write
        self._color = color
        self._width = width
        self._sought = sought  # of a long text the row with this is shown too
        self._by_agent = by_agent  # lines of sub-traces are indented and begin with the agent's name
        self.agents: dict[str, tuple[int, str]] = {}
        self._going: tuple[str, str | None] | None = None  # the message whose text the cursor stands behind
        self._waiting: dict[tuple[str, str | None], EventLine] = {}  # messages whose text waits for that one to end
        self._last = ""  # the end of that text
        self._column = 0
        self._indent = 0  # of the rows behind the first
        self._day: tuple[str, str] | None = None  # of the last event with a time: its date and the zone

    def show(self, line: EventLine) -> None:
        """Print one line, or put its text behind the last one if it continues it."""
        if self._width is None:
            self._write(self._flat(line) + "\n")
            return
        this = (line.trace_id, line.message_id)
        streaming = line.message_id is not None and (line.still_open or this in self._waiting)
        if streaming and self._going not in (None, this):
            self._wait(this, line)
            return
        for other in [key for key in self._waiting if key[0] == line.trace_id and key != this]:
            self._put(self._waiting.pop(other))  # events of one trace keep their order
        self._put(self._joined(this, line))
        self._release()

    def finish(self) -> None:
        """Print the lines that wait for the end of another message."""
        self.close()
        while self._waiting:
            self._release()
            self.close()

    def _wait(self, this: tuple[str, str | None], line: EventLine) -> None:
        """Hold a message back while another one streams: two of them can't share a row."""
        self._waiting[this] = self._joined(this, line)

    def _joined(self, this: tuple[str, str | None], line: EventLine) -> EventLine:
        before = self._waiting.pop(this, None)
        if before is None:
            return line
        return replace(before, text=before.text + line.text, note=line.note, still_open=line.still_open)

    def _release(self) -> None:
        for key in list(self._waiting):
            if self._going is not None:
                return
            self._put(self._waiting.pop(key))

    def _put(self, line: EventLine) -> None:
        this = (line.trace_id, line.message_id)
        if line.goes_on and self._going == this:
            self._continue(line)
        else:
            self.close()
            self._begin(line)
        if line.message_id is not None and line.still_open:
            self._going = this
        else:
            self.close()

    def close(self) -> None:
        """End the row of the message that is still streaming, if there is one."""
        if self._column:
            self._write("\n")
        self._column, self._going = 0, None

    def _flat(self, line: EventLine) -> str:
        parts = [
            self._paint(line.at or f"#{line.step}", "dim"),
            *self._tag(line),
            self._paint(line.glyph, line.style),
        ]
        parts.append(self._paint(text.one_line(line.role), line.style))
        if line.goal:
            parts.append(self._paint(f"[{text.one_line(line.goal)}]", "dim"))
        if line.goes_on and line.message_id is not None:
            parts.append("…")
        if line.text:
            parts.append(text.one_line(line.text))
        if line.note:
            parts.append(self._paint(f"({text.one_line(line.note)})", "dim"))
        return " ".join(parts)

    def _tag(self, line: EventLine) -> list[str]:
        if not self._by_agent:
            return []
        depth, name = self.agents.get(line.trace_id, (0, ""))
        return [self._paint("  " * depth + f"{text.one_line(name)}:", "magenta")] if depth else []

    def _begin(self, line: EventLine) -> None:
        assert self._width is not None
        width = max(self._width(), 20)
        narrow = width < _NARROW
        clock = self._clock(line, narrow) if width >= _TINY else ""
        depth, name = self.agents.get(line.trace_id, (0, "")) if self._by_agent else (0, "")
        lead = clock + "  " * min(depth, 8)
        head = self._paint(lead, "dim")
        plain = cell_len(lead)
        if depth:
            tag = text.cut(text.one_line(name), 12) + " "
            head, plain = head + self._paint(tag, "magenta"), plain + cell_len(tag)
        role = text.cut(text.one_line(line.role), 9 if narrow else 16)
        mark = f"{line.glyph} {role}" + " " * (max(9 - cell_len(role), 0) if not narrow else 0) + " "
        head, plain = head + self._paint(mark, line.style), plain + cell_len(mark)
        if line.goal and not narrow:
            goal = f"[{text.cut(text.one_line(line.goal), 24)}] "
            head, plain = head + self._paint(goal, "dim"), plain + cell_len(goal)
        self._indent = indent = min(plain, width // 3)
        self._column = plain
        self._write(head)
        self._body(line, width, indent, "… " if line.goes_on else "")

    def _clock(self, line: EventLine, narrow: bool) -> str:
        """The time of an event, below the line of its day; or its number, where its run has no times."""
        if not line.at:
            return f"#{line.step}".rjust(6) + " "
        day = day_of(line.at)
        if day != self._day:
            self._day = day
            date = "today" if is_today(day[0]) else day[0]
            self._write(self._paint(f"── {date} {day[1]} ──", "dim") + "\n")
        return f"{clock_of(line.at, milliseconds=not narrow)} "

    def _body(self, line: EventLine, width: int, indent: int, lead: str) -> None:
        body = text.escape(line.text).strip("\n") if not line.still_open else text.escape(line.text).lstrip("\n")
        if line.role == "tool":
            body = _BLANK_LINES.sub("\n", body)  # only a few rows are shown, so none of them should be blank
        rows = list(text.wrap(lead + body, width - indent, max(width - self._column, 1)))
        limit = _ROWS.get(line.role, _OTHER_ROWS)
        if len(rows) > limit:
            rows = self._some(rows, limit)
        self._rows(rows, width, indent, line)
        self._last = line.text[-1:]

    def _some(self, rows: list[str], limit: int) -> list[str]:
        """The first ``limit`` rows, or fewer and the first one with what is sought; and how many are left out."""
        hit = 0 if self._sought is None else next((at for at, row in enumerate(rows) if self._sought.search(row)), 0)
        if hit < limit:
            return [*rows[:limit], f"… {text.count(len(rows) - limit, 'more row')}"]
        first, behind = max(limit - 1, 1), len(rows) - hit - 1
        between = [f"… {text.count(hit - first, 'more row')}"] if hit > first else []
        return [*rows[:first], *between, rows[hit], *([f"… {text.count(behind, 'more row')}"] if behind else [])]

    def _continue(self, line: EventLine) -> None:
        assert self._width is not None
        width = max(self._width(), 20)
        indent = min(self._indent, width // 3)
        body = text.escape_after(self._last, line.text)
        rows = list(text.wrap(body, width - indent, max(width - self._column, 1)))
        self._rows(rows, width, indent, line)
        self._last = line.text[-1:] or self._last

    def _rows(self, rows: list[str], width: int, indent: int, line: EventLine) -> None:
        for number, row in enumerate(rows):
            if number:
                self._write("\n" + " " * indent)
                self._column = indent
            self._write(self._paint(row, "red") if line.error else row)
            self._column += cell_len(row)
        if line.note:
            note = text.cut(f"({text.one_line(line.note)})", width - indent)
            if self._column + 1 + cell_len(note) > width:
                self._write("\n" + " " * indent)
                self._column = indent
            elif self._column > 0:
                note = f" {note}"
            self._write(self._paint(note, "dim"))
            self._column += cell_len(note)

    def _paint(self, words: str, style: str) -> str:
        return f"\x1b[{_SGR[style]}m{words}\x1b[0m" if self._color and words else words


def searched(line: EventLine) -> str:
    """A line as it is shown, from the role on and with its line breaks: what a search in it looks at."""
    parts = [text.one_line(line.role), f"[{text.one_line(line.goal)}]" if line.goal else "", text.escape(line.text)]
    return " ".join(part for part in (*parts, f"({text.one_line(line.note)})" if line.note else "") if part)
