"""Group commit: one unit of work for all the jobs that wait.

Rule 1: while one unit is being written the next jobs gather; an idle log waits for nothing.
Rule 2: one job's refusal is its own; a failure of the storage fails the whole group and leaves nothing of it.
Rule 3: an answer is given after the commit has returned, and listeners hear of it before the answer's receiver runs.
Rule 4: nobody waits without end, and what waits is bounded: a lock that another program holds is tried again in short
        turns, in which those who have waited too long are told so.
Rule 5: what was planned from memory counts only where the commit found the heads that it was planned for. The jobs of
        other traces, and those that change nothing, are planned again from what is stored.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import orjson

from ..errors import TracewatchError, Unavailable
from .cache import Cached, StateCache
from .counts import LogCounts
from .health import CROWDED, DISK_FULL, IN_DOUBT, LOCKED, NO_JSON, SLOW, Fault, Health
from .jobs import Check, Job
from .storage import Busy, Changes, InDoubt, Loaded, Needs, Storage, StorageFault, Written, said
from .unit import Missing, Unit, bring_up, known_heads
from .views import Grown, Listener

logger = logging.getLogger("tracewatch.log")
GROUP_EVENTS = 2000  # a group that is larger would hold up the loop for longer than a frame
LOCKED_S = 2.0  # a lock held for so long is a trouble
DOUBT_TURN_S = 0.25  # between two questions after a commit whose answer was lost
MOST_PLANS = 100  # of one group: each loads something more, and nothing needs as many

States = dict[str, Cached]  # by trace_id


class Alone(Job):
    """Not a job of rules: something that the storage does by itself, between two units."""

    def __init__(self, work: Callable[[], Awaitable[Any]], size: int = 1024) -> None:
        super().__init__(exclusive=True, size=size)
        self.work = work


class _Planned:
    """A unit with the answers of its jobs."""

    def __init__(self, unit: Unit, jobs: Sequence[Job]) -> None:
        self.unit = unit
        self.answers: list[tuple[Job, Any, set[str]]] = []  # with the traces that the job asked for
        for job in jobs:
            try:
                answer, touched = unit.attempt(job.run)
            except TracewatchError as refusal:
                answer, touched = refusal, set()
            self.answers.append((job, answer, touched))
        self.changes = unit.changes()

    def again(self, written: Written) -> list[Job]:
        """The jobs that must be planned again from what is stored."""
        return [
            job
            for job, answer, touched in self.answers
            if isinstance(answer, TracewatchError) or touched & written.again or not self.unit.is_changed(touched)
        ]


class Group:
    """The queue of jobs, and the task that writes them."""

    def __init__(
        self,
        storage: Storage,
        cache: StateCache,
        *,
        health: Health,
        lock_wait_s: float,
        max_waiting_bytes: int,
    ) -> None:
        self.counts = LogCounts()
        self._storage = storage
        self._cache = cache
        self._health = health
        self._lock_wait_s = lock_wait_s
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[Job] = deque()  # jobs not yet in a unit
        self._waiting_bytes = 0  # of those, and of those being written
        self._began: float | None = None  # loop time of the unit being written
        self._work = asyncio.Event()  # set while there is something to do
        self._closing = False
        self._listeners: list[Listener] = []
        self._task = asyncio.create_task(self._run(), name="tracewatch-writer")

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each commit; the result takes it back."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def waiting(self) -> int:
        """Jobs that are not in a unit yet."""
        return len(self._waiting)

    async def do(self, job: Job) -> Any:
        """Have a job done and return its answer. Raises what it raises, or Unavailable."""
        if self._closing:
            raise Unavailable("the log is closing", retry_after_s=1)
        loop = asyncio.get_running_loop()
        job.future = loop.create_future()
        if self._waiting_bytes and self._waiting_bytes + job.size > self._max_waiting_bytes:
            raise CROWDED.error("written")
        job.since = loop.time()
        self._waiting.append(job)
        self._waiting_bytes += job.size
        self._work.set()
        return await job.future

    async def do_all(self, jobs: Sequence[Job]) -> list[Any]:
        """Have jobs done together, each on its own: one that fails (a damaged trace) is raised after the others."""
        answers = await asyncio.gather(*(self.do(job) for job in jobs), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def check(self) -> None:
        """See whether the log can be written, unless somebody is just finding out; what it finds is in ``health``."""
        if self._waiting or self._began is not None:
            self._look_at_slow()
            return
        trouble = self._health.of("write")
        try:
            await self.do(Check(write=trouble is not None and trouble.code != LOCKED.code))
        except Unavailable:
            pass  # it is noted

    def _look_at_slow(self) -> None:
        late = asyncio.get_running_loop().time() - self._lock_wait_s
        if self._began is not None and self._began < late:  # the disk hangs: what it has been given may yet be stored
            self._waiting = deque(self._still_waiting(self._waiting, SLOW))
            self._health.note_error("write", SLOW.error("written"))

    def _still_waiting(self, jobs: Iterable[Job], fault: Fault) -> list[Job]:
        """Those that may wait longer; the others are told that it was in vain."""
        late = asyncio.get_running_loop().time() - self._lock_wait_s
        waiting: list[Job] = []
        for job in jobs:
            if job.since > late and not self._closing:
                waiting.append(job)
            else:
                self._answer(job, fault.error("written"))
        return waiting

    async def close(self) -> None:
        """Finish what waits and end the task. The storage stays open."""
        self._closing = True
        self._work.set()
        await self._task

    # --- one group after another ---

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._work.clear()
                await self._work.wait()
                continue
            group = self._gather()
            for prices in {job.prices for job in group if job.prices is not None}:
                await prices.load()
            if isinstance(group[0], Alone):
                await self._work_alone(group[0])
            else:
                await self._write(group, optimistic=self._storage.optimistic)

    def _gather(self) -> list[Job]:
        group = [self._waiting.popleft()]
        events = group[0].events
        while self._waiting and not group[0].exclusive and not self._waiting[0].exclusive and events < GROUP_EVENTS:
            group.append(self._waiting.popleft())
            events += group[-1].events
        return group

    async def _work_alone(self, job: Alone) -> None:
        self._began = asyncio.get_running_loop().time()
        try:
            answer = await self._patiently(job)
        except Exception as error:
            await self._fail([job], error)
        else:
            self._answer(job, answer)
        finally:
            self._began = None

    async def _patiently(self, job: Alone) -> Any:
        while True:
            try:
                return await job.work()
            except Busy as error:
                if not self._still_waiting([job], LOCKED):
                    raise StorageFault(LOCKED) from error

    async def _write(self, group: list[Job], *, optimistic: bool = False) -> None:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            planned = self._plan_from_memory(group) if optimistic else None
            if planned is None:
                optimistic = False
                group, loaded, states = await self._begin(group)
                if loaded is None:
                    return
                self._began = loop.time()
                planned = await self._plan(group, loaded, states)
            self._began = self._began or loop.time()
            written = await self._commit(planned.changes)
        except Exception as error:
            self.counts.failed_groups += 1
            await self._fail(group, error)
            return
        finally:
            self._began = None
        if written.nothing:
            await self._write(group)
            return
        grown = planned.unit.written(planned.changes, written, self._cache)
        self._count(len(group), time.perf_counter() - began, grown)
        self._written()
        if grown:
            self._tell(grown)
        again = planned.again(written) if optimistic or written.again else []
        for job, answer, _ in planned.answers:
            if job not in again:
                self._answer(job, answer)
        if again:
            await self._write(again)

    # --- planning ---

    async def _begin(self, group: list[Job]) -> tuple[list[Job], Loaded | None, States]:
        """Begin, however long another program holds the lock.

        Returns those of the group that still waited then, what was loaded for them (None: nobody waited), and the
        states that were known.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        while group:
            needs, states = needs_of(group), States()
            known_heads(needs, states, self._cache)
            try:
                return group, await self._storage.begin(needs), states
            except Busy:
                pass
            if loop.time() - since >= min(LOCKED_S, self._lock_wait_s):
                self._health.note_error("write", LOCKED.error("written"))
            group = self._still_waiting(group, LOCKED)
            self._waiting = deque(self._still_waiting(self._waiting, LOCKED))
        return [], None, {}

    async def _plan(self, group: list[Job], loaded: Loaded, states: States) -> _Planned:
        """Plan what was begun; where a job finds that something is missing, load that as well and plan anew."""
        try:
            plans = 0
            while plans < MOST_PLANS:
                needs = loaded.needs
                if not bring_up(loaded, states):  # else there are more pages of events
                    try:
                        return _Planned(Unit(loaded, states), group)
                    except Missing as missing:
                        needs.add(missing.needs)
                        _complete(needs)
                        plans += 1
                known_heads(needs, states, self._cache)
                loaded = await self._storage.begin(needs)
            raise RuntimeError("jobs that always need something more")
        except BaseException:
            await self._storage.rollback()
            raise

    def _plan_from_memory(self, group: list[Job]) -> _Planned | None:
        """The plan of jobs of which all that they need is remembered; None if it isn't."""
        needs, storage = needs_of(group), self._storage
        loaded = Loaded(Needs(), storage.now(), storage.steady())
        states = States()
        for trace_id in needs.traces:
            known = self._cache.find(trace_id)
            if known is None or known.row is None or known.row.last_event_id != known.state.last_event_id:
                return None
            states[trace_id], loaded.rows[trace_id] = known, known.row
        try:
            planned = _Planned(Unit(loaded, states, optimistic=True), group)
        except Missing:
            return None
        return planned if planned.changes.is_of_known_traces else None

    async def _commit(self, changes: Changes) -> Written:
        if not changes:
            await self._storage.rollback()
            return Written()
        try:
            return await self._storage.commit(changes)
        except InDoubt:
            return await self._settle(changes)

    async def _settle(self, changes: Changes) -> Written:
        """What became of a commit whose answer was lost. It is never guessed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._lock_wait_s
        while True:
            try:
                return await self._storage.settle(changes)
            except (InDoubt, Busy, StorageFault) as error:
                if loop.time() >= until:
                    self._cache.drop(change.after.trace_id for change in changes.traces)
                    raise StorageFault(IN_DOUBT) from error
            await asyncio.sleep(DOUBT_TURN_S)

    # --- afterwards ---

    def _written(self) -> None:
        trouble = self._health.of("write")
        if trouble is not None and (trouble.code != DISK_FULL.code or self._storage.has_room()):
            self._health.clear("write")

    def _count(self, jobs: int, took_s: float, grown: Sequence[Grown]) -> None:
        self.counts.commit_s.add(took_s)
        self.counts.group_jobs.add(jobs)
        for one in grown:
            self.counts.events += len(one.bodies)
            self.counts.bytes += sum(map(len, one.bodies))

    async def _fail(self, group: list[Job], error: Exception) -> None:
        fault = error.fault if isinstance(error, StorageFault) else None
        if isinstance(error, orjson.JSONDecodeError):
            fault = NO_JSON
        if isinstance(error, Busy):  # for longer than anybody waits
            fault = LOCKED
        if len(group) > 1 and (fault is None or fault.own):
            # Not the disk's doing: what one job brought with it (a damaged trace, a defect) must not cost the others
            for job in group:
                await self._write([job])
            return
        answer = self._refusal(error, fault)
        for job in group:
            self._answer(job, copy.copy(answer), error)

    def _refusal(self, error: Exception, fault: Fault | None) -> TracewatchError:
        if fault is not None:
            return self._health.note_fault(fault, "written")
        words = "a defect in tracewatch failed a transaction; nothing of it was stored%s"
        logger.error(words, said(error), exc_info=error)
        return TracewatchError("an internal error: nothing was stored")

    def _answer(self, job: Job, answer: Any, cause: BaseException | None = None) -> None:
        self._waiting_bytes -= job.size
        if job.future.done():  # whoever waited has gone; what was asked is done all the same
            return
        if isinstance(answer, BaseException):
            answer.__cause__ = cause
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)

    def _tell(self, grown: Sequence[Grown]) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(grown)
            except Exception as error:  # its defect; the events are stored, and the writer must live on
                context = {"message": "a listener of the log failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)


def needs_of(group: Iterable[Job]) -> Needs:
    """What the jobs need together."""
    needs = Needs()
    for job in group:
        job.need(needs)
    _complete(needs)
    return needs


def _complete(needs: Needs) -> None:
    """The sums of a tree count what the same group adds below it, so then what is above each trace must be known."""
    if needs.above:
        needs.above |= needs.traces
