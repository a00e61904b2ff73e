"""Sessions of coding agents that tell a server of themselves by hooks, while they are at work.

Rule 1: a hook is written before it is answered, in the order in which they came. The agent waits for the answer.
Rule 2: a transcript that lies where this user's agents put theirs is read as well, when a hook from this machine names
        it: it has the model calls, their tokens and thoughts, and what was said while the server was away. Whatever
        comes of both is one (importers/twins.py). No other file is ever opened: the name must be the session's own.
Rule 3: a session has a lease: where its process can be seen, as long as that is there, else for SILENT_S after its last
        word. So one that was killed is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import BadRequest, TracewatchError, UnknownTrace
from ..importers import Put, Step
from ..importers.claude_hooks import ClaudeHooks, Permission
from ..importers.codex_hooks import CodexHooks
from ..importers.following import Followed, follow
from ..importers.processes import agents_in
from ..importers.sessions import claude_home, codex_home
from ..log import EventLog
from ..model.times import format_time
from .asking import asked_before, close_answered
from .teller import Teller
from .writing import IngestCounts

logger = logging.getLogger("tracewatch.ingest")
SILENT_S = 1800.0  # without a word, where no process can be seen
BUSY_S, QUIET_S = 0.15, 2.0  # between two looks at a transcript: soon after something came, and later
SOON_S = 10.0  # is soon
FORGET_S = 3600.0  # a session without a word is read from the log again when there is one
ALIVE_S = 10.0  # between two looks for its process
MOST_SESSIONS = 1000
AGENTS = ("claude-code", "codex")


class Hooks(Protocol):
    """The mapping of one session's hooks."""

    ended: bool

    @property
    def trace_id(self) -> str:
        """The session's trace."""

    def hook(self, body: dict[str, Any], at: str) -> Permission | None:
        """Take one hook."""

    def recall(self, goals: list[dict[str, Any]]) -> None:
        """Take the plan that the log has."""

    def drain(self) -> list[Put]:
        """The facts since the last time."""

    def declined(self, key: str, at: str) -> list[Put]:
        """The facts of a permission that was refused at the terminal."""


@dataclass(eq=False)
class HookedSession:
    """One session that tells of itself."""

    agent: str
    hooks: Hooks
    lease_s: float
    followed: Followed | None = None
    cwd: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    heard_at: float = field(default_factory=time.monotonic)
    asking: dict[str, Permission] = field(default_factory=dict)  # questions that may be open, by request_id
    begin: Callable[[], Followed | None] = lambda: None  # follows its transcript from the beginning
    recalled: bool = False  # what the log had of it before was taken up
    task: asyncio.Task[None] | None = None

    @property
    def trace_id(self) -> str:
        """The session's trace."""
        return self.hooks.trace_id


class HookedSessions:
    """The sessions whose hooks come to this server."""

    def __init__(self, log: EventLog, counts: IngestCounts, *, lease_s: float) -> None:
        self._log = log
        self._counts = counts
        self._lease_s = lease_s
        self._tellers = {agent: Teller(log, counts, agent) for agent in AGENTS}
        self._sessions: OrderedDict[tuple[str, str], HookedSession] = OrderedDict()
        self._slow: set[asyncio.Future[Any]] = set()

    async def take(self, agent: str, body: dict[str, Any], *, here: bool) -> tuple[HookedSession, Permission | None]:
        """Write what a hook tells; its session, and what it asks for. ``here``: it came from this machine.

        Raises BadRequest, Unavailable.
        """
        session_id = body.get("session_id")
        if not isinstance(session_id, str) or not 0 < len(session_id) <= 200:
            self._counts.note(agent, "unreadable")
            raise BadRequest("session_id: the hooks of an agent's session name it")
        if agent == "codex" and isinstance(body.get("agent_id"), str) and 0 < len(body["agent_id"]) <= 200:
            session_id = body["agent_id"]  # a thread of its own
        self._counts.note(agent, "item")
        self._counts.last[agent] = time.time()
        session = self._session(agent, session_id, body, here)
        async with session.lock:
            session.heard_at = time.monotonic()
            if not session.recalled:
                await self._recall(session)
            try:
                asked = session.hooks.hook(body, format_time(time.time()))
                puts = session.hooks.drain()
            except Exception as error:
                self._counts.note(agent, "failed")
                logger.error("a defect in tracewatch: a hook of %s was not written", agent, exc_info=error)
                return session, None
            await self._tell(session, puts)
        session.bell.set()
        return session, asked

    async def declined(self, session: HookedSession, key: str) -> None:
        """Take that a permission was refused at the terminal: that ends the turn there."""
        async with session.lock:
            await self._tell(session, session.hooks.declined(key, format_time(time.time())))

    def goes_on(self, taking: asyncio.Future[Any]) -> None:
        """Keep a ``take`` that is slow: its hook was answered, and is written when the log can be."""
        self._slow.add(taking)

        def done(one: asyncio.Future[Any]) -> None:
            self._slow.discard(one)
            if not one.cancelled() and one.exception() is not None:
                self._counts.note("hooks", "failed")

        taking.add_done_callback(done)

    async def close(self) -> None:
        """Read no more transcripts."""
        await asyncio.gather(*self._slow, return_exceptions=True)
        tasks = [session.task for session in self._sessions.values() if session.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sessions.clear()

    # --- one session ---

    def _session(self, agent: str, session_id: str, body: dict[str, Any], here: bool) -> HookedSession:
        session = self._sessions.get((agent, session_id))
        if session is None:
            followed = followed_by(agent, session_id, body) if here else None
            above = body["session_id"] if body["session_id"] != session_id else None
            hooks: Hooks = (
                ClaudeHooks(session_id, followed is not None)
                if agent == "claude-code"
                else CodexHooks(session_id, followed is not None, above)
            )
            lease_s = SILENT_S if followed is None else self._lease_s
            session = HookedSession(agent, hooks, lease_s, followed)
            session.begin = lambda: followed_by(agent, session_id, body) if here else None
            self._sessions[agent, session_id] = session
            session.task = asyncio.create_task(self._tend(session), name=f"tracewatch-hooks-{session_id[:40]}")
            while len(self._sessions) > MOST_SESSIONS:
                _, oldest = self._sessions.popitem(last=False)
                if oldest.task is not None:
                    oldest.task.cancel()
        self._sessions.move_to_end((agent, session_id))
        session.cwd = body["cwd"] if isinstance(body.get("cwd"), str) else session.cwd
        return session

    async def _recall(self, session: HookedSession) -> None:
        """Take up what the log has of a session that this server has not heard of since its start."""
        with contextlib.suppress(UnknownTrace):
            goals = (await self._log.snapshot(session.trace_id)).state.goals
            session.hooks.recall(list(goals.values()))
            session.asking = await asked_before(self._log, session.trace_id)
        session.recalled = True

    async def _tell(self, session: HookedSession, steps: Iterable[Step]) -> None:
        puts = [step for step in steps if isinstance(step, Put)]
        if puts:
            await self._tellers[session.agent].tell(puts, lease_s=session.lease_s)

    async def _tend(self, session: HookedSession) -> None:
        """Read the session's transcript as it grows, and keep its lease, until it is over."""
        grown_at = looked_at = float("-inf")
        while True:
            now = time.monotonic()
            if now - max(session.heard_at, grown_at) > FORGET_S:
                break
            soon = now - max(session.heard_at, grown_at) < SOON_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BUSY_S if soon and session.followed else QUIET_S):
                    await session.bell.wait()
                    await asyncio.sleep(BUSY_S / 3)  # the line that tells the same follows
            session.bell.clear()
            try:
                if await self._read(session):
                    grown_at = time.monotonic()
                    await close_answered(self._log, session.asking, {})
                if time.monotonic() - looked_at > ALIVE_S:
                    looked_at = time.monotonic()
                    await self._keep_alive(session)
            except TracewatchError:
                await asyncio.sleep(1)  # the log can't be written now: the transcript is read again from its beginning
                session.followed = session.begin()
            except Exception as error:
                self._counts.note(session.agent, "failed")
                logger.error("a defect in tracewatch: a transcript is read no further", exc_info=error)
                session.followed = None
        self._sessions = OrderedDict((which, one) for which, one in self._sessions.items() if one is not session)

    async def _read(self, session: HookedSession) -> bool:
        """Tell what is new in the transcript; whether there was anything."""
        followed, grown = session.followed, False
        while followed is not None:
            async with session.lock:
                steps = await asyncio.to_thread(followed.read)
                await self._tell(session, steps)
                if not followed.behind:
                    if session.hooks.ended:
                        await self._tell(session, _but_for(followed.finish(), session.trace_id))
                    elif followed.turn_over:
                        await self._tell(session, followed.rest())
            grown = grown or bool(steps)
            if not followed.behind:
                break
        return grown

    async def _keep_alive(self, session: HookedSession) -> None:
        if session.hooks.ended:
            return
        kind = "claude" if session.agent == "claude-code" else "codex"
        there = None if session.followed is None else await asyncio.to_thread(agents_in, session.cwd, kind)
        if there or (there is None and time.monotonic() - session.heard_at < SILENT_S):
            await self._log.renew_lease(session.trace_id)


def _but_for(steps: list[Step], trace_id: str) -> list[Step]:
    """The steps without the end of this trace, which a hook has told."""
    return [
        step for step in steps if not (isinstance(step, Put) and step.kind == "status" and step.trace_id == trace_id)
    ]


def followed_by(agent: str, session_id: str, body: dict[str, Any]) -> Followed | None:
    """The transcript that a hook names, if it is that session's and lies where this user's agents put theirs."""
    given = body.get("agent_transcript_path") if agent == "codex" and body.get("agent_id") else None
    given = given or body.get("transcript_path")
    home = claude_home() if agent == "claude-code" else codex_home()
    if not isinstance(given, str) or home is None:
        return None
    try:
        path = Path(given).resolve()
        if agent == "claude-code":
            mine = path.name == f"{session_id}.jsonl" and path.parent.parent == (home / "projects").resolve()
            return follow(path, "claude") if mine else None
        mine = path.name.startswith("rollout-") and path.name.endswith(f"-{session_id}.jsonl")
        return follow(path, "codex") if mine and (home / "sessions").resolve() in path.parents else None
    except (OSError, ValueError, RuntimeError):
        return None
