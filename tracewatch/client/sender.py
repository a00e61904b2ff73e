"""The background thread: one for each url of a process, shared by all its traces, started with the first event.

Rule 1: the agent's threads only append to an outbox and wake this thread. Everything that may have to wait happens
        here.
Rule 2: a forked child starts over with a thread and producers of its own. ``SENDERS`` is the one global object of the
        client, because threads, forks and exits belong to the process.
Rule 3: at exit, events are sent for at most ``flush_s``; the others are on disk before the process ends. Events that
        are recorded even later, by exit handlers and by threads that live longer, go to disk at once.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from ..settings import Settings
from .delivery import Delivery
from .lines import Uplink
from .link import ServerUplink
from .outbox import SPILL_BYTES, Outbox
from .spool import SpoolDir, SpoolError
from .target import target_of

TICK_S = 0.25
AWAY_S = 0.5  # events in memory go to disk after so long without a connection
ORPHANS_S = 30.0  # time between two looks for spools of dead processes
ORPHANS = 100  # the most such spools that are delivered at the same time
EXIT_GRACE_S = 3.0  # time after flush_s to write the spool
RESTART_S = 0.5  # time between two tries to start the thread
NO_SPOOL = (
    "tracewatch has no place for a spool, as this user has no home folder: while the server is away, events are kept "
    "in memory only. Set TRACEWATCH_SPOOL_DIR to a folder"
)

_log = logging.getLogger("tracewatch")


class Sender:
    """Delivers outboxes to one url."""

    def __init__(
        self,
        url: str,
        spool_dir: str,
        spool_bytes: int,
        flush_s: float,
        on_start: Callable[[], None] = lambda: None,  # a thread starts: see to its end
        token: str = "",
    ) -> None:
        self.url = url
        self.direct = url.startswith("sqlite:")
        self.flush_s = flush_s
        self._on_start = on_start
        self._token = token
        self.directory = SpoolDir(spool_dir, spool_bytes)
        self._known: weakref.WeakSet[Outbox] = weakref.WeakSet()
        self._forget_threads()

    def _forget_threads(self) -> None:
        self._lock = threading.RLock()
        self._deliveries: dict[Outbox, Delivery] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._waiting: set[Outbox] = set()  # until the thread has started
        self._start_at = 0.0  # monotonic: not tried again before
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._over = False  # whether the process ends
        self._late = False  # whether the thread has ended for good

    def after_fork(self) -> None:
        """Start anew in a forked child: it has none of the parent's threads, and the parent sends its own events."""
        for delivery in self._deliveries.values():
            delivery.outbox.start_over()
        for outbox in self._known:
            if outbox not in self._deliveries:
                outbox.start_over()
        self._forget_threads()

    # --- from any thread ---

    def poke(self, outbox: Outbox) -> None:
        """Wake the thread: there are events to deliver."""
        if self._late:
            self._put_on_disk(outbox)
            return
        delivery, loop = self._deliveries.get(outbox), self._loop
        if delivery is None or loop is None or loop.is_closed():
            self._register(outbox)
        elif not delivery.poked:
            delivery.poked = True
            try:
                loop.call_soon_threadsafe(delivery.wake.set)
            except RuntimeError:
                pass  # the process ends: ``spill_rest`` is about to come by

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in the background thread after some seconds, or never if the process ends before."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(loop.call_later, seconds, call)

    def _register(self, outbox: Outbox) -> None:
        with self._lock:
            self._known.add(outbox)
            if self._over:
                return
            if (self._loop is None or self._loop.is_closed()) and not self._start():
                self._waiting.add(outbox)
            elif outbox not in self._deliveries:
                self._begin(outbox)

    def _start(self) -> bool:
        """Start the thread; False if the system lets none start now: a later event tries again."""
        if time.monotonic() < self._start_at:
            return False
        self._on_start()
        uplink = self._make_uplink()
        loop = None
        try:
            loop = asyncio.new_event_loop()
            name = f"tracewatch {self.url}"
            thread = threading.Thread(target=self._run, args=(loop,), name=name, daemon=True)
            self._loop, self._thread, self._tasks, self._wake = loop, thread, set(), asyncio.Event()
            self._uplink: Uplink = uplink
            thread.start()
        except (RuntimeError, OSError) as error:  # no more threads, or no more descriptors
            self._loop = self._thread = None
            if loop is not None:
                loop.close()
            self._not_started(error)
            return False
        waiting, self._waiting = self._waiting, set()
        for outbox in {*self._deliveries, *waiting}:  # of a thread that has failed, or could not start
            self._begin(outbox)
        return True

    def _not_started(self, error: Exception) -> None:
        if not self._start_at:
            said = "tracewatch: the background thread for %s can't start, which is tried again: %s"
            _log.warning(said, self.url, error)
        self._start_at = time.monotonic() + RESTART_S

    def _make_uplink(self) -> Uplink:
        if self.direct:
            from .direct import FileUplink

            return FileUplink(self.url)
        return ServerUplink(target_of(self.url, self._token))

    def _begin(self, outbox: Outbox) -> None:
        assert self._loop is not None
        delivery = self._deliveries[outbox] = Delivery(outbox, self._uplink, self.directory)
        if outbox.after is not None:
            delivery.parent = self._deliveries.get(outbox.after[0])
            if delivery.parent is not None:
                delivery.parent.held.append((outbox.after[1], delivery))
        self._loop.call_soon_threadsafe(self._deliver_soon, delivery)

    def _deliver_soon(self, delivery: Delivery) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._wake.set()

    def shutdown(self) -> None:
        """Send what can be sent within ``flush_s``, put the rest on disk, end the thread."""
        with self._lock:
            thread, loop, self._over = self._thread, self._loop, True
        if thread is None or loop is None or not thread.is_alive():
            return
        loop.call_soon_threadsafe(self._wake.set)
        thread.join(self.flush_s + EXIT_GRACE_S)

    def spill_rest(self) -> None:
        """After ``shutdown``, write later events to disk, in any thread, and close all files."""
        self._late = True
        for outbox in list(self._known):
            self._put_on_disk(outbox)

    def _put_on_disk(self, outbox: Outbox) -> None:
        with outbox.lock:  # first, as a thread that records may hold it already
            if outbox.memory_bytes:
                outbox.spill(self.directory, self.url)
            if outbox.spool is not None:
                outbox.spool.close()

    # --- in the background thread ---

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._main())
        except Exception:
            _log.exception("tracewatch: the background thread for %s has failed", self.url)
        finally:
            loop.run_until_complete(self._let_go())
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        orphans_at = loop.time()
        while not self._over:
            self._wake.clear()
            now = loop.time()
            if now >= orphans_at:
                orphans_at = now + ORPHANS_S
                self._adopt_orphans()
            self._spill(now)
            try:
                async with asyncio.timeout(TICK_S if self._deliveries else ORPHANS_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # nothing was said, but time has passed
        await self._finish()

    async def _deliver(self, delivery: Delivery) -> None:
        outbox = delivery.outbox
        while True:
            try:
                await delivery.run()
            except Exception:
                _log.exception("tracewatch: recording trace %s has failed; trying again", outbox.trace_id)
                if not delivery.closing:
                    await asyncio.sleep(1.0)
                    continue
            delivery.finish()
            if delivery.closing:
                return
            with self._lock:
                del self._deliveries[outbox]
                if outbox.pending:  # came in the moment it ended
                    self._register(outbox)
            return

    def _spill(self, now: float) -> None:
        for delivery in list(self._deliveries.values()):
            outbox = delivery.outbox
            away = not delivery.connected and delivery.down_since is not None and now - delivery.down_since > AWAY_S
            if outbox.memory_bytes and (away or outbox.memory_bytes > SPILL_BYTES):
                outbox.spill(self.directory, self.url)

    def _adopt_orphans(self) -> None:
        mine = {outbox.producer.partition(".")[0]: outbox for outbox in self._deliveries}
        adopted: list[Outbox] = []
        for path in self.directory.files():
            if len(adopted) >= ORPHANS:
                break
            spool = self.directory.adopt(path, self.url)
            if spool is None:
                continue
            producer, seq = spool.header.get("after") or ("", 0)
            parent = mine.get(producer)
            outbox = Outbox.adopted(spool, (parent, seq) if parent is not None else None)
            mine[outbox.producer] = outbox
            adopted.append(outbox)
        for outbox in adopted:
            self._register(outbox)

    async def _finish(self) -> None:
        """Send and write the rest, because the process ends."""
        await asyncio.sleep(0)  # a delivery begun just now becomes a task first
        deliveries = list(self._deliveries.values())
        for delivery in deliveries:
            delivery.closing = True
            delivery.wake.set()
        self._uplink.hurry()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self.flush_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        self._keep(deliveries)

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._uplink.close()
        except TimeoutError:
            pass  # the process ends anyway

    def _keep(self, deliveries: list[Delivery]) -> None:
        kept = lost = traces = 0
        for outbox in (delivery.outbox for delivery in deliveries):
            if not outbox.pending:
                continue
            traces += 1
            try:
                whole = outbox.spill(self.directory, self.url)
                if outbox.spool is not None:
                    outbox.spool.sync()
            except SpoolError:
                whole = False
            kept, lost = (kept + outbox.pending, lost) if whole else (kept, lost + outbox.pending)
        if kept or lost:
            _log.warning(
                "%d events of %d traces did not reach %s: %d are kept in %s for the next recorder, %d are lost",
                *(kept + lost, traces, self.url, kept, self.directory, lost),
            )


class Senders:
    """The background threads of this process."""

    def __init__(self) -> None:
        self._senders: dict[tuple[str, str, str], Sender] = {}
        self._lock = threading.Lock()
        self._told_no_spool = False
        self._hooked = 0  # the process whose exit is hooked

    def get(self, settings: Settings) -> Sender:
        """The sender for the url, spool directory and token of these settings."""
        url = settings.url
        if url.startswith("sqlite:///"):
            try:
                url = f"sqlite:///{Path(url.removeprefix('sqlite:///')).absolute()}"
            except OSError:
                pass  # the working directory is gone: the background thread will say that the file can't be opened
        if not settings.spool_dir and not self._told_no_spool:
            self._told_no_spool = True
            _log.warning(NO_SPOOL)
        with self._lock:
            key = (url, settings.spool_dir, settings.token)
            if key not in self._senders:
                self._senders[key] = Sender(
                    url, settings.spool_dir, settings.spool_bytes, settings.flush_s, self._hook, settings.token
                )
            return self._senders[key]

    def _hook(self) -> None:
        if self._hooked == os.getpid():
            return
        if not self._hooked:
            os.register_at_fork(after_in_child=self._after_fork)
            atexit.register(self._at_exit)
            # Threads of the log's driver are joined before atexit runs, so a log file has to be closed before that.
            getattr(threading, "_register_atexit", atexit.register)(self._before_threads_end)
        self._hooked = os.getpid()
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:  # its children leave without atexit
            multiprocessing.Finalize(None, self._at_exit, exitpriority=10)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        for sender in self._senders.values():
            sender.after_fork()

    def _before_threads_end(self) -> None:
        for sender in list(self._senders.values()):
            if sender.direct:
                sender.shutdown()

    def _at_exit(self) -> None:
        for sender in list(self._senders.values()):
            sender.shutdown()
            sender.spill_rest()


SENDERS = Senders()
