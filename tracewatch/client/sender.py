"""The background thread: one for each url of a process, shared by all its traces, started with the first event.

Rule 1: the agent's threads only append to an outbox, which writes to the spool, and wake this thread. Everything that
        may have to wait happens here.
Rule 2: a forked child starts over with a thread and producers of its own. ``SENDERS`` is the one global object of the
        client, because threads, forks and exits belong to the process.
Rule 3: at exit, events are sent for at most ``flush_s``; the others stay in the spool. So do events that are recorded
        even later, by exit handlers and by threads that live longer.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..settings import Settings
from .backlog import Backlog
from .bell import Bell
from .delivery import Delivery
from .interrupts import of_agent
from .lines import Uplink
from .link import ServerUplink
from .outbox import Outbox
from .spool import Shelf, SpoolDir
from .target import same_log, target_of

TICK_S = 0.25
AWAY_S = 0.5  # events leave memory, which the spool has as well, after so long without a connection
LOOK_S = 30.0  # time between two looks for spools of dead processes
AT_ONCE = 100  # the most spools of the backlog that are delivered at the same time
EXIT_GRACE_S = 3.0  # time after flush_s for the end of the thread
FILE_IDLE_S = 10.0  # a log's file is kept open for so long, for the next trace
EXIT_STEP_S = 0.1  # at exit: time between two looks for what else can be sent
FORK_WAIT_S = 2.0  # the longest wait for the thread before a fork
RESTART_S = 0.5  # time between two tries to start the thread
NO_SPOOL = (
    "tracewatch has no place for a spool, as this user has no home folder: until the server has them, events are kept "
    "in memory only. Set TRACEWATCH_SPOOL_DIR to a folder"
)

_log = logging.getLogger("tracewatch")


class Halt:
    """A halt of a background thread for a fork."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.over = threading.Event()
        self.task: asyncio.Task[None] | None = None


class Sender:
    """Delivers outboxes to one url.

    ``meant``: whether a spool of a dead process, by its first line, is for this url; by default if it names the same
    log. ``look_s``: the time between two looks for such spools. ``private``: only in a folder where nobody else can put
    any.
    """

    def __init__(
        self,
        url: str,
        spool_dir: str,
        spool_bytes: int,
        flush_s: float,
        on_start: Callable[[], None] = lambda: None,  # a thread starts: see to its end
        token: str = "",
        *,
        meant: Callable[[dict[str, Any]], bool] | None = None,
        look_s: float = LOOK_S,
        private: bool = False,
    ) -> None:
        self.url = url
        self.direct = url.startswith("sqlite:")
        self.flush_s = flush_s
        self._on_start = on_start
        self._token = token
        self._look_s = look_s
        self.directory = SpoolDir(spool_dir, spool_bytes, private=private)
        self.shelf = Shelf(self.directory, url)
        self.backlog = Backlog(self.directory, meant or (lambda header: same_log(str(header["url"]), url)))
        self._known: weakref.WeakSet[Outbox] = weakref.WeakSet()
        self._halt: Halt | None = None  # of the thread, for a fork
        self._locked_out = False  # whether this process was forked while its parent's thread did not halt
        self._forget_threads()

    def _forget_threads(self) -> None:
        self._lock = threading.RLock()
        self._deliveries: dict[Outbox, Delivery] = {}
        self._from_backlog: dict[Outbox, tuple[Path, int]] = {}  # those that waited there: their files, their events
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bell: Bell | None = None  # of the loop
        self._thread: threading.Thread | None = None
        self._waiting: set[Outbox] = set()  # until the thread has started
        self._start_at = 0.0  # monotonic: not tried again before
        self._start_error: BaseException | None = None  # to be said
        self._later: set[Callable[[], None]] = set()  # what is to be called soon
        self._wake = asyncio.Event()
        self._over = False  # whether the process ends
        self._through = 0  # how many traces were delivered
        self.looked = False  # whether there was a look for spools of dead processes
        self._in_vain = False  # whether a ``with`` has waited in vain at its end

    def before_fork(self) -> None:
        """Halt the thread where no module is being imported and SQLite is at rest: a child inherits their locks."""
        thread, bell = self._thread, self._bell
        self._halt = None
        if thread is not None and bell is not None and thread.is_alive() and thread is not threading.current_thread():
            self._halt = halt = Halt()
            bell.call(self._halt_soon, halt)
            halt.reached.wait(FORK_WAIT_S)

    def after_fork_in_parent(self) -> None:
        """Let the thread go on."""
        if self._halt is not None:
            self._halt.over.set()

    def after_fork(self) -> None:
        """Start anew in a forked child: it has none of the parent's threads, and the parent sends its own events."""
        self._locked_out = self._locked_out or (self._halt is not None and not self._halt.reached.is_set())
        for outbox in {*self._deliveries, *self._all_known()}:
            outbox.start_over()
        self.backlog.after_fork()
        self.shelf.after_fork()
        self._forget_threads()

    def _all_known(self) -> list[Outbox]:
        while True:
            try:
                return list(self._known)
            except RuntimeError:
                pass  # another thread has added one meanwhile

    # --- from any thread ---

    def poke(self, outbox: Outbox) -> None:
        """Wake the thread: there are events to deliver."""
        delivery, loop, bell = self._deliveries.get(outbox), self._loop, self._bell
        if delivery is None or loop is None or bell is None or loop.is_closed():
            if not (outbox.ended and outbox.created and not outbox.pending):  # else it was delivered a moment ago
                outbox.begin()
                self._register(outbox)
        elif not delivery.poked:
            delivery.poked = True
            bell.call(delivery.wake.set)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in the background thread after some seconds, or at the latest when the process ends."""

        def due() -> None:
            self._later.discard(call)
            call()

        loop, bell = self._loop, self._bell
        self._later.add(call)
        if loop is None or bell is None or self._over or loop.is_closed():
            due()
        else:
            bell.call(loop.call_later, seconds, due)

    def on_the_way(self, outbox: Outbox) -> list[Outbox]:
        """This outbox and those of its sub-traces, as far as they are being delivered now and not in vain."""
        going = list(self._deliveries.values())
        if any(delivery.connected for delivery in going):
            self._in_vain = False
        elif any(delivery.failing for delivery in going):
            self._in_vain = True  # the target is away
        return [
            delivery.outbox
            for delivery in going
            if (delivery.connected or not (delivery.failing or self._in_vain))
            and not (delivery.outbox.created and not delivery.outbox.pending)
            and delivery.outbox.is_below(outbox)
        ]

    def waited_in_vain(self) -> None:
        """Note that the target did not answer in time: nobody waits for it again before there is a connection."""
        self._in_vain = True

    def start(self) -> None:
        """Start the thread to deliver the backlog, without an event of our own."""
        with self._lock:
            self._start()
        self._say()

    @property
    def at_work(self) -> bool:
        """Whether something is being delivered, or waits for it."""
        return bool(self._deliveries or len(self.backlog) or not self.looked)

    @property
    def waiting(self) -> int:
        """How many traces are being delivered, or wait for it."""
        return len(self._deliveries) + len(self.backlog)

    @property
    def connected(self) -> bool:
        """Whether anything is on its way now."""
        return any(delivery.connected for delivery in list(self._deliveries.values()))

    def _register(self, outbox: Outbox) -> None:
        with self._lock:  # in it no outbox's lock is taken: an agent's thread may hold that, and wait here
            self._known.add(outbox)
            if self._over:
                return
            if (self._loop is None or self._loop.is_closed()) and not self._start():
                self._waiting.add(outbox)
            elif outbox not in self._deliveries:
                self._begin(outbox)
        self._say()

    def _say(self) -> None:
        """Log why the thread can't start, once, and without the lock: logging runs handlers of the agent's."""
        error, self._start_error = self._start_error, None
        if error is not None:
            said = "tracewatch: the background thread for %s can't start, which is tried again: %s"
            _log.warning(said, self.url, error)

    def _start(self) -> bool:
        """Start the thread; False if the system lets none start now: a later event tries again."""
        if time.monotonic() < self._start_at:
            return False
        self._on_start()
        try:
            _need_descriptors()
            uplink = self._make_uplink()
            loop = asyncio.new_event_loop()
            name = f"tracewatch {self.url}"
            thread = threading.Thread(target=self._run, args=(loop,), name=name, daemon=True)
            self._loop, self._bell, self._thread, self._tasks, self._wake = (
                loop, Bell(loop), thread, {}, asyncio.Event())  # fmt: skip
            self._uplink: Uplink = uplink
            thread.start()
        except BaseException as error:
            self._loop = self._bell = self._thread = None  # the thread ends if it has started after all
            if of_agent(error) or not isinstance(error, (RuntimeError, OSError)):
                raise
            self._not_started(error)  # no more threads, or no more descriptors
            return False
        waiting, self._waiting = self._waiting, set()
        for outbox in {*self._deliveries, *waiting}:  # of a thread that has failed, or could not start
            self._begin(outbox)
        return True

    def _not_started(self, error: BaseException) -> None:
        if not self._start_at:
            self._start_error = error
        self._start_at = time.monotonic() + RESTART_S

    def _make_uplink(self) -> Uplink:
        if self.direct:
            from .direct import FileUplink

            return FileUplink(self.url, self._locked_out)
        return ServerUplink(target_of(self.url, self._token))

    def _begin(self, outbox: Outbox) -> None:
        assert self._bell is not None
        delivery = self._deliveries[outbox] = Delivery(outbox, self._uplink, self.directory)
        if outbox.after is not None:
            delivery.parent = self._deliveries.get(outbox.after[0])
            if delivery.parent is not None:
                delivery.parent.held.append((outbox.after[1], delivery))
        self._bell.call(self._deliver_soon, delivery)

    def _deliver_soon(self, delivery: Delivery) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(delivery))
        self._tasks[task] = delivery
        task.add_done_callback(self._ended)
        self._wake.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._wake.set()

    def shutdown(self) -> None:
        """Send what can be sent within ``flush_s``, leave the rest in the spool, end the thread."""
        for call in list(self._later):
            call()
        with self._lock:
            thread, bell, self._over = self._thread, self._bell, True
        if thread is None or bell is None or not thread.is_alive():
            return
        bell.call(self._wake.set)
        thread.join(self.flush_s + EXIT_GRACE_S)

    def let_go(self) -> None:
        """After ``shutdown``, leave the spool to other processes. What is recorded even later gets a box of its own."""
        for outbox in self._all_known():
            outbox.let_go()
        self.backlog.close()
        self.shelf.close()

    # --- in the background thread ---

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            bell = self._bell
            if self._loop is not loop or bell is None:  # a signal handler has raised while this thread was started
                loop.close()
                return
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._main(bell))
        except Exception:
            _log.exception("tracewatch: the background thread for %s has failed", self.url)
        finally:
            loop.run_until_complete(self._let_go())
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            bell.close()
            loop.close()

    async def _main(self, bell: Bell) -> None:
        loop = asyncio.get_running_loop()
        look_at, used_at = loop.time(), math.inf
        while not self._over:
            self._wake.clear()
            self._listen(bell)
            now = loop.time()
            if now >= look_at:
                look_at = now + self._look_s
                self.backlog.look()
            self._admit()
            self.looked = True
            self._care(now)
            if self.at_work:
                used_at = now
            elif self.direct and now - used_at > FILE_IDLE_S:
                await self._uplink.close()  # it opens the file again when there is something
                used_at = math.inf
            wait_s = TICK_S if self.at_work else min(max(look_at - now, 0.01), FILE_IDLE_S)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass  # nothing was said, but time has passed
        await self._finish()

    def _halt_soon(self, halt: Halt) -> None:
        halt.task = asyncio.get_running_loop().create_task(self._halted(halt))

    async def _halted(self, halt: Halt) -> None:
        await self._uplink.rest()
        halt.reached.set()
        halt.over.wait(FORK_WAIT_S)  # the whole loop, for the moment that a fork takes
        self._uplink.go_on()

    def _listen(self, bell: Bell) -> None:
        """Do what a signal handler of the agent's may have kept from being done: it raised in ``poke`` or ``later``."""
        bell.look()
        for delivery in list(self._deliveries.values()):
            if delivery.poked:
                delivery.wake.set()

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
            self._delivered(delivery)
            return

    def _delivered(self, delivery: Delivery) -> None:
        outbox = delivery.outbox
        delivery.finish()
        if outbox.created and outbox.ended:
            outbox.finish()
        self._through += not outbox.pending
        with self._lock:
            waited = self._from_backlog.pop(outbox, None)
            if waited is not None and outbox.spool is None:
                self.backlog.delivered(*waited)
            if delivery.closing:
                return
            self._deliveries.pop(outbox, None)
            if outbox.orphaned and outbox.spool is not None:
                self.backlog.put_back(outbox)
            elif outbox.pending:  # came in the moment it ended
                self._register(outbox)

    def _admit(self, *, closing: bool = False) -> None:
        """Begin to deliver what waits in the backlog, as much as may be delivered at once."""
        while len(self._from_backlog) < AT_ONCE and (outbox := self.backlog.next()) is not None:
            with self._lock:
                if outbox in self._deliveries or outbox.spool is None:
                    continue  # it goes on, or is delivered
                after = outbox.spool.header.get("after")
                if outbox.orphaned and after:
                    outbox.after = self._parent_of(*after)
                self._from_backlog[outbox] = outbox.spool.path, outbox.pending
                self._known.add(outbox)
                self._begin(outbox)
                self._deliveries[outbox].closing = closing

    def _parent_of(self, producer: str, seq: int) -> tuple[Outbox, int] | None:
        name = producer.partition(".")[0]
        found = (one for one in self._deliveries if one.producer.partition(".")[0] == name)
        parent = next(found, None)
        return None if parent is None else (parent, seq)

    def _care(self, now: float) -> None:
        """See to what is in memory and in files, and have ended traces wait in the backlog while the target is away."""
        self.directory.look()
        for delivery in list(self._deliveries.values()):
            outbox = delivery.outbox
            outbox.save_rest()
            outbox.rest()
            outbox.say()
            if not delivery.connected and delivery.down_since is not None and now - delivery.down_since > AWAY_S:
                outbox.release()
                may_wait = delivery.pausing and outbox.ended and outbox not in self._from_backlog
                if may_wait and self.backlog.park(outbox, self.shelf):
                    self._drop(delivery)

    def _drop(self, delivery: Delivery) -> None:
        with self._lock:
            self._deliveries.pop(delivery.outbox, None)
        delivery.finish()
        for task, one in list(self._tasks.items()):
            if one is delivery:
                task.cancel()

    async def _finish(self) -> None:
        """Send the rest, because the process ends."""
        await asyncio.sleep(0)  # a delivery begun just now becomes a task first
        loop = asyncio.get_running_loop()
        until = loop.time() + self.flush_s
        deliveries = list(self._deliveries.values())
        for delivery in deliveries:
            delivery.closing = True
            delivery.wake.set()
        self._uplink.hurry()
        self._admit(closing=True)
        await asyncio.sleep(0)
        while self._tasks and (left := until - loop.time()) > 0:
            through = self._through
            await asyncio.wait(self._tasks, timeout=min(left, EXIT_STEP_S))
            if self._through > through:
                self._admit(closing=True)
                await asyncio.sleep(0)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
        self._tell_of_rest()

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._uplink.close()
        except TimeoutError:
            pass  # the process ends anyway

    def _tell_of_rest(self) -> None:
        kept, traces = self.backlog.own_events
        lost = 0
        for outbox in list(self._deliveries):
            if outbox.orphaned:
                continue  # it was in the spool before, and stays there
            outbox.save_rest()
            pending, unsaved = outbox.pending, outbox.unsaved
            traces += bool(pending)
            kept, lost = kept + pending - unsaved, lost + unsaved
        if kept or lost:
            _log.warning(
                "%d events of %d traces did not reach %s: %d are kept in %s for the next recorder, %d are lost",
                *(kept + lost, traces, self.url, kept, self.directory, lost),
            )


def _need_descriptors() -> None:
    """Raise OSError if there are not enough for a loop: one that gets only some of them complains on stderr."""
    got: list[int] = []
    try:
        for _ in range(3):
            got += os.pipe()
    finally:
        for one in got:
            os.close(one)


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
        self._hook()
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
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self._after_fork,
            )
            atexit.register(self._at_exit)
            # Threads of the log's driver are joined before atexit runs, so a log file has to be closed before that.
            getattr(threading, "_register_atexit", atexit.register)(self._before_threads_end)
        self._hooked = os.getpid()
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:  # its children leave without atexit
            multiprocessing.Finalize(None, self._at_exit, exitpriority=10)

    def _before_fork(self) -> None:
        for sender in list(self._senders.values()):
            sender.before_fork()

    def _after_fork_in_parent(self) -> None:
        for sender in list(self._senders.values()):
            sender.after_fork_in_parent()

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
            sender.let_go()


SENDERS = Senders()
