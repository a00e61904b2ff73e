"""The delivery of one outbox into the log: create the trace, open a line, send, take answers; again until all is there.

It runs in the loop of the background thread, with one task for each outbox.

Rule 1: no fault of the line or the server ends a delivery before the process ends. It waits and tries again.
Rule 2: a fault of one event costs that event only, and one warning.
Rule 3: commands of the log (cancels and answers) go to the outbox's ``Control``. While a call waits there for an
        answer, the state of its question is also asked for from time to time, so that a lost command is only late.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import deque
from typing import Any, NoReturn

import orjson

from ..model.blobs import MARK
from ..model.canonical import ENDED, event_name
from ..model.mend import Mender, less
from ..model.window import IN_FLIGHT, LineBroken, Window
from .backoff import Backoff, patience_s
from .contents import Contents
from .control import Told
from .encode import dumps
from .errors import ApiError, Unreachable
from .lines import Cut, Leaving, NotYet, TooBig, TraceLine, Uplink, Verdict
from .outbox import Outbox
from .spool import SpoolDir

GATHER_S = 0.005  # a batch is sent this long after its first event, because events come in groups
FLOCK = 100  # a batch of so many events does not wait for more
ANSWER_TIMEOUT_S = 15.0  # a line with an append unanswered for so long is dead
ALONE_AFTER = 3  # cut connections in a row; then a trace sends one append at a time, over a connection of its own
CUTS_ALONE = 4  # of such a connection, with the same event alone on it
SMALL = 1024  # bytes; an event below this is too large for nobody
PARENT_LOOK_S = 10.0  # a sub-trace is woken when its turn comes; this often it looks by itself as well
_MISSING = frozenset({"unknown_parent", "unknown_goal", "unknown_step", "unknown_message", "unknown_trace"})
_PLACES = (("parent_step_id", "parent_message_id"), ("parent_goal_id",), ("parent_trace_id",))  # given up in this order
_MISSING_TRIES = 3

_log = logging.getLogger("tracewatch")


class Delivery:
    """The task that delivers one outbox."""

    def __init__(self, outbox: Outbox, uplink: Uplink, directory: SpoolDir) -> None:
        self.outbox = outbox
        self.poked = False  # whether a wake-up is on its way
        self.wake = asyncio.Event()
        self.connected = False
        self.down_since: float | None = None  # loop time; None before the first attempt
        self.finished = False  # there will be no further attempt
        self.closing = False  # the process ends: one more attempt, then leave the rest to the spool
        self._followers: list[tuple[int, int, Delivery]] = []  # a heap: sub-traces that wait for this one, by seq
        self._follows = itertools.count()  # the second in it: deliveries have no order
        self.held: deque[tuple[int, Delivery]] = deque()  # events behind this seq wait for this sub-trace to be created
        self.parent: Delivery | None = None
        self.failing = False  # the last attempt was in vain
        self.pausing = False  # it waits for the next attempt
        self.tried = False  # to create the trace: created or not, nobody has to wait for it
        self._uplink = uplink
        self._directory = directory
        self._backoff = Backoff()
        self._missing = 0  # how often the parent was not there
        self._mender = Mender()
        self._unsure: dict[int, int] = {}  # how often an append was refused without a verdict
        self._not_there: dict[str, int] = {}  # questions the log does not have; the seq up to which it may have to come
        self._sizes: dict[int, int] = {}  # bytes of each append that has no answer, by its first seq
        self._cuts = 0  # how often the connection was cut since the last acknowledgement
        self._cut_alone = 0  # of these, with one event in flight and nobody else's
        self._contents = Contents(outbox, uplink)
        self._progress_at = 0.0  # loop time of the last answer, or of the first append after all were answered

    async def run(self) -> None:
        """Deliver until the trace has ended and all is acknowledged, or until the process ends."""
        failed: Exception
        while True:
            last_try = self.closing
            if self.down_since is None:
                self.down_since = asyncio.get_running_loop().time()
            try:
                await self._once()
                return
            except Leaving as error:
                failed, wait_s = error, error.wait_s
            except NotYet as error:
                self._warn(error.cause)
                failed, wait_s = error, error.wait_s
            except (LineBroken, Unreachable, ApiError) as error:
                self._warn(error)
                failed, wait_s = error, max(self._backoff.next(), patience_s(error))
            self.failing = True
            self._was_tried()
            if last_try or (self.outbox.orphaned and isinstance(failed, ApiError)):  # other spools wait for their turn
                return
            self.pausing = True
            await self._pause(wait_s)
            self.pausing = False

    def _warn(self, error: Exception) -> None:
        if isinstance(error, ApiError):
            self.outbox.warn_once(error.code, "trace %s can't be recorded now: %s", self.outbox.trace_id, error)

    async def _once(self) -> None:
        await self._parent_is_there()
        await self._create()
        alone = self._cuts >= ALONE_AFTER
        line = await self._uplink.open(self.outbox.trace_id, self.outbox.producer, alone=alone)
        self._sizes.clear()
        try:
            self.connected, self.failing = True, False
            await self._converse(line)
        except Cut as error:
            self._was_cut(error, alone)
            raise
        finally:
            self.connected = False
            self.down_since = asyncio.get_running_loop().time()
            await line.close()

    async def _pause(self, seconds: float) -> None:
        """Wait. New events do not shorten the wait; the end of the process does."""
        until = asyncio.get_running_loop().time() + seconds
        while not self.closing and (left := until - asyncio.get_running_loop().time()) > 0:
            self.wake.clear()  # but ``poked`` stays: a wake-up for each event would take the agent's time for nothing
            await self._sleep(left)

    def _awake(self) -> None:
        """Clear the wake-up, always before looking at the outbox, because one in between would be lost otherwise."""
        self.wake.clear()
        self.poked = False

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            pass  # the usual end of a wait

    # --- the trace ---

    async def _parent_is_there(self) -> None:
        """Wait until the parent of a sub-trace, and the goal that it names, are in the log."""
        if self.outbox.after is None or self.parent is None:
            return
        parent, seq = self.outbox.after
        self.parent.follow(seq, self)
        while not self.parent.finished and not (parent.created and parent.acked >= seq):
            self._awake()
            await self._sleep(PARENT_LOOK_S)

    def follow(self, seq: int, follower: Delivery) -> None:
        """Wake the follower when this trace is there and acknowledged up to ``seq``, or when no more is to come."""
        heapq.heappush(self._followers, (seq, next(self._follows), follower))

    def finish(self) -> None:
        """Note that there will be no further attempt."""
        self.finished = True
        for _, _, follower in self._followers:
            follower.wake.set()
        self._followers.clear()

    async def _create(self) -> None:
        outbox, again = self.outbox, self.outbox.created
        try:
            trace = await (self._find() if "resume" in outbox.spec else self._uplink.create(outbox.spec))
        except ApiError as error:
            if error.code == "trace_conflict":
                said = "trace %s exists with other fields: it is recorded into as it is"
                outbox.warn_once(error.code, said, outbox.trace_id)
                trace = await self._look()
            elif not self._relaxed(error):
                raise
            else:
                await self._create()
                return
        self._found(trace.get("status"), again)
        outbox.mark_created()
        self._wake_followers()
        self._was_tried()

    async def _look(self) -> dict[str, Any]:
        """The summary of the trace; {} if our token lets us write but not read."""
        try:
            return await self._uplink.find(self.outbox.trace_id)
        except ApiError as error:
            if error.status != 403:
                raise
            return {}

    async def _find(self) -> dict[str, Any]:
        """Find the trace that another process began, or create it if it does not exist."""
        spec = self.outbox.spec
        try:
            return await self._uplink.find(spec["trace_id"])
        except ApiError as error:
            self._missing += error.code == "unknown_trace"
            if self._missing < _MISSING_TRIES or self._directory.holds(spec["trace_id"], but=self.outbox.producer):
                raise
        self.outbox.warn_once("relaxed", "trace %s is not there to be resumed: it begins here", spec["trace_id"])
        given = {key: value for key, value in spec.items() if key != "resume"}
        self.outbox.spec = {"task": "(resumed)", **given}
        return await self._uplink.create(self.outbox.spec)

    def _found(self, status: Any, again: bool) -> None:
        """Act on the trace's status from before this connection."""
        outbox = self.outbox
        resumed = "resume" in outbox.spec
        if status == "stopped" and (again or resumed) and not outbox.ended:
            # It was cancelled while it had no recorder that could acknowledge it
            outbox.control.cancelled_by({})
        if resumed and outbox.acked == 0 and (status == "stopped" or (outbox.orphaned and status in ENDED)):
            outbox.replace(1, b'{"event":"recorder_resumed"}')  # and not trace_status_changed: it stays ended

    def _was_tried(self) -> None:
        self.tried = True
        if self.parent is not None:
            self.parent.wake.set()

    def _relaxed(self, error: ApiError) -> bool:
        """Ask for a trace with fewer fields, after a refusal. Returns False if another try with fewer can't help."""
        spec = self.outbox.spec
        if error.code in _MISSING and "parent_trace_id" in spec:
            self._missing += 1
            if self._missing < _MISSING_TRIES or self._directory.holds(spec["parent_trace_id"]):
                return False  # its events may be on their way from another process
            keys = next(found for group in _PLACES if (found := [key for key in group if spec.get(key)]))
            fewer, refused = {k: v for k, v in spec.items() if k not in keys}, {k: spec[k] for k in keys}
        elif error.status in (413, 422):
            fewer, refused = less(spec, error.status, error.details)
        else:
            return False
        if not refused:
            return False
        self.outbox.warn_once("relaxed", "trace %s is recorded with less than was given: %s",
                              self.outbox.trace_id, error)  # fmt: skip
        self.outbox.spec = fewer
        told = {"event": "recorder_relaxed", "error": error.code, "message": error.message[:1000], "refused": refused}
        self.outbox.accept([dumps(told)])
        return True

    def _wake_followers(self) -> None:
        # Only those whose turn has come: waking all at each ack would take time by the square of their number
        while self.outbox.created and self._followers and self._followers[0][0] <= self.outbox.acked:
            heapq.heappop(self._followers)[2].wake.set()

    # --- the events ---

    async def _converse(self, line: TraceLine) -> None:
        outbox = self.outbox
        outbox.control.told(line.told, whole=True)
        outbox.control.look_again()
        stored = outbox.own_seq(line.expected_seq - 1)
        if stored < outbox.acked:
            self._lost(stored)
        outbox.ack(stored)  # its ack may have been lost
        self._wake_followers()
        window = Window(outbox.acked, 1 if self._cuts >= ALONE_AFTER else IN_FLIGHT)
        reader = asyncio.create_task(self._take_answers(line, window))
        try:
            loop = asyncio.get_running_loop()
            lease_s = float(outbox.spec.get("lease_s") or 60)
            beat_at = loop.time() + lease_s / 3
            while True:
                self._awake()
                if reader.done():
                    reader.result()
                await self._send(line, window)
                if outbox.control.unclear and not self.closing:
                    await self._ask_how_it_stands()
                if not window.in_flight and not outbox.pending and (outbox.ended or self.closing):
                    return
                now = loop.time()
                if window.in_flight and now - self._progress_at > ANSWER_TIMEOUT_S:
                    line.suspect()
                    raise LineBroken("the server does not answer")
                if now >= beat_at:
                    await line.heartbeat()
                    beat_at = now + lease_s / 3
                    outbox.control.look_again()
                await self._sleep(min(beat_at - now, 1.0) if window.in_flight else beat_at - now)
                if not self.closing and 0 < outbox.next_seq - window.next < FLOCK:
                    await asyncio.sleep(GATHER_S)
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    async def _send(self, line: TraceLine, window: Window) -> None:
        while (room := min(window.room(), self._not_held() - window.next + 1)) > 0:
            bodies = self.outbox.take(window.next, room, max(self._uplink.batch_bytes >> self._cuts, 1))
            if not bodies:
                return
            if any(MARK in body for body in bodies) and not await self._contents.sent(window.next, bodies):
                continue  # one of them is another event now
            first = not window.in_flight
            seq = window.sent(len(bodies))
            self._sizes[seq] = sum(map(len, bodies))
            await line.send(self.outbox.wire_seq(seq), self._mender.ahead(bodies))  # may have to wait for its turn
            if first:
                self._progress_at = asyncio.get_running_loop().time()

    def _not_held(self) -> int:
        """The last seq that may be sent: events after the start of a sub-trace wait until that is created."""
        while self.held and self.held[0][1].tried:
            self.held.popleft()
        return self.held[0][0] if self.held else self.outbox.next_seq

    async def _take_answers(self, line: TraceLine, window: Window) -> None:
        try:
            while True:
                answer = await line.answer()
                if isinstance(answer, Told):
                    self.outbox.control.told(answer)
                if not isinstance(answer, Verdict):
                    continue
                self._progress_at = asyncio.get_running_loop().time()
                self._answered(answer, window)
                if window.settle(self.outbox.acked):
                    self._settled(window)
                self.wake.set()
        finally:
            self.wake.set()

    def _answered(self, answer: Verdict, window: Window) -> None:
        outbox = self.outbox
        seq = outbox.own_seq(answer.seq)
        if answer.error is None:
            self._cuts = self._cut_alone = 0
            self._sizes = {first: size for first, size in self._sizes.items() if first > seq}
            outbox.ack(seq)
            window.acked(seq)
            self._mender.settled(seq)
            self._backoff.succeeded()
            self._wake_followers()
            return
        failures = self._unsure[seq] = self._unsure.get(seq, 0) + 1
        culprit = window.nacked(seq, answer.error, answer.expected_seq, failures)
        size = self._sizes.pop(seq, 0)
        if culprit is None:
            if answer.error == "too_large" and size:
                self._takes_less_than(size)
            return
        (body,) = outbox.take(culprit, 1, 1)
        if answer.error == "unknown_blob":
            self._contents.again(culprit, body)
            return
        if event_name(body) == "input_requested" and self._question_refused(culprit, body, answer):
            return
        outbox.warn_once(f"refused {answer.error}", "trace %s: the server refuses an event (%s): %s",
                         outbox.trace_id, answer.error, answer.message)  # fmt: skip
        self._replace(culprit, body, answer.error, answer.message, answer.details)

    def _replace(self, seq: int, body: bytes, code: str, message: str, details: list[dict[str, Any]]) -> None:
        """Put what the log may take in the place of a refused event."""
        instead = self._mender.instead(seq, body, code, message, details)
        if instead is None:
            raise LineBroken(f"the server refuses even to be told of a refusal: {message}")
        self.outbox.replace(seq, instead)

    def _takes_less_than(self, size: int) -> None:
        self._uplink.batch_bytes = max(min(self._uplink.batch_bytes, size // 2), 1)

    def _was_cut(self, error: Cut, alone: bool) -> None:
        """Note a cut connection: send less at once, and at last blame the event that is alone on it.

        A cut without a word says little: the event is blamed after ``CUTS_ALONE`` of them on a connection of its own.
        """
        if not self._sizes or self.closing:
            return
        self._cuts += 1
        seq, size = max(self._sizes.items(), key=lambda item: item[1])
        (body,) = self.outbox.take(seq, 1, 1) or (b"",)
        single = size <= len(body)
        if isinstance(error, TooBig):
            self._takes_less_than(size)
            told = single
            message = f"the server or a proxy before it takes no message of {size:,} bytes"
        else:
            self._cut_alone += alone and single and size > SMALL
            told = self._cut_alone >= CUTS_ALONE
            message = f"the connection is cut whenever it is sent, of {size:,} bytes"
        if told:
            self._cuts = self._cut_alone = 0
            said = "trace %s: %s: it can't be recorded"
            self.outbox.warn_once("too_large", said, self.outbox.trace_id, message)
            self._replace(seq, body, "too_large", message, [])

    def _question_refused(self, seq: int, body: bytes, answer: Verdict) -> bool:
        """Tell the agent that waits for the question; True if it was refused only because it was asked before."""
        request_id = str(orjson.loads(body).get("request_id"))
        if answer.error != "request_exists":
            self.outbox.control.refused(request_id, str(answer.error), answer.message)
            return False
        self.outbox.replace(seq, orjson.dumps({"event": "recorder_asked_again", "request_id": request_id}))
        self.outbox.control.look_again([request_id])
        return True

    def _lost(self, stored: int) -> NoReturn:
        """The log has fewer events than it acknowledged. Report the loss once, and go on with the rest."""
        outbox = self.outbox
        count = outbox.acked - stored
        _log.warning(
            "trace %s: the server has lost the last %d events it had stored (the trace was deleted, or its database "
            "restored from a backup); recording goes on without them", outbox.trace_id, count)  # fmt: skip
        outbox.lost(count)
        raise LineBroken("the server has lost what it had acknowledged")

    async def _ask_how_it_stands(self) -> None:
        """Ask for the states of unclear questions."""
        control = self.outbox.control
        for request_id in list(control.unclear):
            with self.outbox.lock:  # an agent that asks a question holds it until the event is accepted
                acked, last = self.outbox.acked, self.outbox.next_seq - 1
            if acked < self._not_there.get(request_id, 0):
                continue
            try:
                state = await self._uplink.question(self.outbox.trace_id, request_id)
            except ApiError as error:
                if error.status >= 500:
                    raise
                if acked < self._not_there.setdefault(request_id, last):
                    continue  # its event may be on the way
                control.unclear.discard(request_id)
                control.lost(request_id)
            else:
                control.told(Told(inputs=[state]))
            self._not_there.pop(request_id, None)

    def _settled(self, window: Window) -> None:
        """Take note of a gap that the server has named, once all appends in flight are answered."""
        self._unsure = {seq: times for seq, times in self._unsure.items() if seq > self.outbox.acked}
        if window.expected is None:
            return
        expected, window.expected = self.outbox.own_seq(window.expected), None
        if expected <= self.outbox.acked:
            self._lost(expected - 1)
        self.outbox.ack(expected - 1)
        window.next = self.outbox.acked + 1
