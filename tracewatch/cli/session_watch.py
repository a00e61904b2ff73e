"""The watch over the sessions of coding agents on this machine: all that lie there, and those that are at work.

Rule 1: a session that grows is followed: its run has a lease, and is idle between its turns. One that has said nothing
        for long is ended as an import would end it; one that was cut off within a turn, with no process of the agent in
        its folder any more, is left to its lease, which makes it lost.
Rule 2: a session that does not grow is imported once. What was delivered stands in a file, by the log that has it, so a
        restart reads only what has changed; without that file everything is compared with the log again.
Rule 3: what is at work comes first. Old sessions are imported one piece at a time between two looks at it.
Rule 4: while the server is away nothing more is read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..client.api import Api
from ..client.errors import ApiError, Unreachable
from ..importers import ImportFault, Step
from ..importers.claude_code import is_sub_agent, own_session, read_session, sessions
from ..importers.codex_rollouts import rollouts
from ..importers.following import Followed, follow
from ..importers.gemini_cli import chats, parent_of, read_chat
from ..importers.processes import agents_in
from .live_courier import LiveCourier

RECENT_S = 600.0  # a session that has grown since then may be at work
IDLE_S = 3600.0  # without a word after a turn: it is over
CUT_S = 120.0  # without a word in a turn, and no process of the agent: it was killed
SILENT_S = 1800.0  # the same where processes can't be looked at
SAVE_S = 5.0
REWRITTEN_S = 10.0  # a file that is written anew as a whole is read when it is so old
_FILES = {"claude": sessions, "codex": rollouts, "gemini": chats}
_PIECE = 500  # steps of an old session between two looks


@dataclass
class SessionPlace:
    """A folder with sessions. ``kind``: claude, codex or gemini."""

    folder: Path
    kind: str

    def files(self) -> list[Path]:
        """The files that sessions and threads are known by."""
        if not self.folder.is_dir():
            return []
        return _FILES[self.kind](self.folder)

    def of(self, changed: Path) -> Path | None:
        """The file of the session that a changed file is of; None for any other file."""
        if changed.suffix != ".jsonl" and not changed.name.endswith(".meta.json"):
            return None
        try:
            parts = changed.relative_to(self.folder).parts
        except ValueError:
            return None
        if self.kind == "codex":
            return changed if changed.name.startswith("rollout-") else None
        if self.kind == "gemini":
            return changed if "chats" in parts[:-1] else None
        if len(parts) > 2:
            return self.folder / parts[0] / f"{parts[1]}.jsonl"
        if is_sub_agent(changed):
            return changed.with_name(f"{own_session(changed)}.jsonl") if changed.exists() else None
        return changed if len(parts) == 2 else None


@dataclass
class _Live:
    """A session that is followed."""

    run: Followed
    kind: str
    grown_at: float
    cut: bool = False
    anew: bool = False  # it is told from its beginning, which has not begun


class SessionWatch:
    """Follows the sessions in ``places`` into the log of ``api``. ``look`` does what there is to do, and never waits.

    ``say`` gets lines for the user; ``wall`` and ``clock`` are the time of day and a clock that is never set.
    """

    def __init__(
        self,
        api: Api,
        places: list[SessionPlace],
        say: Callable[[str], None],
        *,
        state: Path | None = None,
        past: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.places = places
        self._say = say
        self._state = _Delivered(state, api)
        self._past = past
        self._clock = clock
        self._wall = wall
        self._courier = LiveCourier(api, self._fault, self._began, clock)
        self._live: dict[Path, _Live] = {}
        self._old: dict[Path, str] = {}  # sessions that are still to be imported, and their kinds
        self._importing: tuple[Path, Iterator[Step]] | None = None
        self._faults = 0
        self.runs = 0  # that were created

    # --- what is there ---

    def scan(self) -> None:
        """Look for sessions that are not known yet, and for what has changed while nobody looked."""
        for place in self.places:
            for path in place.files():
                if path not in self._live and path not in self._old and self._state.differs(path):
                    self._take(path, place.kind)

    def _take(self, path: Path, kind: str) -> None:
        try:
            age_s = self._wall() - path.stat().st_mtime
        except OSError:
            return
        if path.suffix == ".json":  # of Gemini CLI as it was: written anew each time
            if age_s >= REWRITTEN_S and (self._past or age_s < RECENT_S):
                self._old[path] = kind
        elif age_s < RECENT_S:
            self._follow(path, kind)
        elif self._past:
            self._old[path] = kind

    def changed(self, path: Path) -> None:
        """Take that a file has changed."""
        for place in self.places:
            of = place.of(path)
            if of is not None and of.exists():
                self._follow(of, place.kind)

    def _follow(self, path: Path, kind: str) -> None:
        self._old.pop(path, None)
        if path not in self._live:
            self._live[path] = _Live(follow(path, kind, self._clock), kind, self._clock())

    # --- what is to be done ---

    @property
    def busy(self) -> bool:
        """Whether there is something to do at once."""
        at_once = any(live.run.behind or live.anew for live in self._live.values())
        return bool(self._old or self._importing or self._courier.gone) or at_once

    def look(self) -> bool:
        """Tell what is new of all sessions; False: the server is away."""
        for path, live in list(self._live.items()):
            if not self._courier.flush():
                return False
            self._tell(path, live)
        self._courier.beat(live.run.trace_id for live in self._live.values() if live.run.trace_id and not live.cut)
        self._start_again()
        if self._courier.flush():
            self._import_some()
        self._state.save(self._clock())
        return self._courier.flush()

    def _tell(self, path: Path, live: _Live) -> None:
        steps, live.anew = live.run.read(), False
        if steps:
            live.grown_at, live.cut = self._clock(), False
            self._courier.take(steps)
        if live.run.behind:
            return
        if live.run.turn_over:
            self._courier.take(live.run.rest())
        quiet_s = self._clock() - live.grown_at
        if live.run.turn_over and quiet_s > IDLE_S:
            self._courier.take(live.run.finish())
            self._let_go(path)
        elif not live.run.turn_over and quiet_s > CUT_S and not live.cut:
            live.cut = self._was_killed(live, quiet_s)
        elif live.cut and quiet_s > IDLE_S:
            self._let_go(path)

    def _was_killed(self, live: _Live, quiet_s: float) -> bool:
        here = agents_in(live.run.cwd, live.kind)
        return quiet_s > SILENT_S if here is None else not here

    def _let_go(self, path: Path) -> None:
        if self._courier.flush():
            self._live.pop(path)
            self._state.note(path)

    def _start_again(self) -> None:
        """Tell those anew whose traces have gone from the log."""
        for path, live in list(self._live.items()):
            if live.run.trace_id in self._courier.gone:
                del self._live[path]
                self._follow(path, live.kind)
                self._live[path].anew = True
        self._courier.gone.clear()

    def _import_some(self) -> None:
        if self._importing is None:
            if not self._old:
                return
            path = next(iter(self._old))
            self._importing = (path, _steps_of(path, self._old.pop(path)))
        path, steps = self._importing
        for _ in range(_PIECE):
            step = next(steps, None)
            if step is None:
                self._importing = None
                if self._courier.flush():
                    self._state.note(path)
                return
            self._courier.take([step])

    def finish(self) -> None:
        """Send what waits, and remember what was delivered."""
        self._courier.flush(at_once=True)
        self._state.save(float("inf"))

    def _began(self, trace_id: str) -> None:
        self.runs += 1

    def _fault(self, fault: ImportFault) -> None:
        self._faults += 1
        if self._faults <= 100:
            self._say(str(fault))

    @property
    def refusal(self) -> str | None:
        """Why nothing can be sent; None: it can."""
        return self._courier.refusal

    @property
    def counts(self) -> tuple[int, int]:
        """Sessions that are followed, and old ones that are still to be imported."""
        return len(self._live), len(self._old) + (self._importing is not None)


def _steps_of(path: Path, kind: str) -> Iterator[Step]:
    """The steps of a session that does not grow."""
    try:
        if kind == "claude":
            yield from read_session(path, path.name)
        elif kind == "gemini":
            yield from read_chat(path, parent_of(path), path.name)
        else:
            run = follow(path, kind)
            while (steps := run.read()) or run.behind:
                yield from steps
            yield from run.finish()
    except OSError:  # it was removed
        return


class _Delivered:
    """What was delivered to a log: the size, time and inode of each session's file then."""

    def __init__(self, folder: Path | None, api: Api) -> None:
        self._folder = folder
        self._api = api
        self._file: Path | None = None
        self._known: dict[str, list[int]] | None = None
        self._changed = False
        self._saved_at = 0.0

    def differs(self, path: Path) -> bool:
        """Whether a file is another than what was delivered of it."""
        return self._load().get(str(path)) != _mark(path)

    def note(self, path: Path) -> None:
        """Note that all of a file was delivered."""
        mark = _mark(path)
        if mark is not None:
            self._load()[str(path)] = mark
            self._changed = True

    def save(self, now: float) -> None:
        """Write it down, if that is due."""
        if not self._changed or now - self._saved_at < SAVE_S or self._file is None:
            return
        self._changed, self._saved_at = False, now
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._file.with_suffix(".new")
            fresh.write_bytes(orjson.dumps(self._known))
            fresh.replace(self._file)
        except OSError:
            pass  # then the next start compares with the log

    def _load(self) -> dict[str, list[int]]:
        if self._known is not None:
            return self._known
        self._known = {}
        try:
            self._api.traces(limit=1)  # its answer names the log
        except (ApiError, Unreachable):
            pass
        if self._folder is not None:
            log = hashlib.sha256(f"{self._api.url} {self._api.epoch}".encode()).hexdigest()[:16]
            self._file = self._folder / f"{log}.json"
            try:
                found: Any = orjson.loads(self._file.read_bytes())
                self._known = found if isinstance(found, dict) else {}
            except (OSError, orjson.JSONDecodeError):
                pass
        return self._known


def _mark(path: Path) -> list[int] | None:
    """What says that a session has changed: its file, and the newest of its sub-agents' files."""
    try:
        status = path.stat()
    except OSError:
        return None
    below = path.with_suffix("") / "subagents"
    newest = 0
    if below.is_dir():
        for file in below.glob("**/*.jsonl"):
            newest = max(newest, file.stat().st_mtime_ns)
    return [status.st_size, status.st_mtime_ns, status.st_ino, newest]
