"""The outbox and the window without a connection: whatever faults line and disk have, the log gets each event once."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import DEADLINE_S
from tracewatch.client import outbox as outbox_module
from tracewatch.client import spool as spool_module
from tracewatch.client.delivery import Delivery
from tracewatch.client.outbox import Outbox
from tracewatch.client.spool import Shelf, Spool, SpoolDir
from tracewatch.model.canonical import parse_json
from tracewatch.model.events import validate_event
from tracewatch.model.mend import substitute
from tracewatch.model.window import BATCH_EVENTS, IN_FLIGHT, LineBroken, Window

URL = "http://127.0.0.1:1"
SPEC = {"trace_id": "t", "task": "x"}


def event(n: int) -> bytes:
    return b'{"event":"thought","n":%d}' % n


@pytest.fixture
def directory(tmp_path: Path) -> SpoolDir:
    return SpoolDir(tmp_path, 10_000_000)


@pytest.fixture
def shelf(directory: SpoolDir) -> Iterator[Shelf]:
    made = Shelf(directory, URL)
    yield made
    made.close()


def adopted(directory: SpoolDir) -> Outbox:
    """The outbox of the one spool that a dead process has left."""
    (path,) = directory.boxes()
    box = directory.adopt(path)
    assert box is not None
    spool = box.read_back(box.files()[0])
    assert spool is not None
    return Outbox.adopted(spool)


def filled(count: int, shelf: Shelf | None = None) -> Outbox:
    outbox = Outbox(SPEC, shelf=shelf)
    for n in range(1, count + 1):
        assert outbox.accept([event(n)])
    return outbox


def test_what_is_accepted_is_on_disk_and_what_is_acknowledged_leaves_it(directory: SpoolDir, shelf: Shelf) -> None:
    outbox = filled(10, shelf)
    (path,) = directory.files()
    assert [line.count(b'"event":{') for line in path.read_bytes().splitlines()] == [0] + [1] * 10
    outbox.ack(3)
    assert outbox.take(4, 100, 10**9) == [event(n) for n in range(4, 11)]
    outbox.release()
    assert (outbox.memory_bytes, outbox.pending, outbox.unsaved) == (0, 7, 0)
    outbox.accept([event(11), event(12)])
    assert outbox.take(4, 100, 10**9) == [event(n) for n in range(4, 11)]
    assert outbox.take(11, 100, 10**9) == [event(11), event(12)]
    outbox.ack(11)
    assert directory.files() == [path]
    outbox.ack(12)
    assert path.read_bytes().count(b"\n") == 1  # its first line
    outbox.accept([event(13)])
    outbox.ended = True
    outbox.ack(13)
    assert directory.files() == []
    assert outbox.pending == 0


def test_a_trace_in_which_nothing_happens_has_no_file(directory: SpoolDir, shelf: Shelf) -> None:
    outbox = filled(2, shelf)
    outbox.mark_created()
    outbox.rest()
    outbox.ack(2)
    outbox.rest()
    assert len(directory.files()) == 1
    outbox.rest()
    assert directory.files() == []
    outbox.accept([event(3)])
    assert directory.files()[0].read_bytes().startswith(b'{"created":1,')
    outbox.let_go()
    shelf.close()
    again = adopted(directory)
    assert (again.acked, again.take(3, 9, 10**9)) == (2, [event(3)])


def test_a_write_that_a_signal_handler_cut_short_leaves_no_hole(
    directory: SpoolDir, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of the handler's may strike at any line: before the write, and after it."""
    outbox = filled(3, shelf)
    real = Spool.append

    def before(spool: Spool, bodies: Any) -> None:
        raise KeyboardInterrupt

    def after(spool: Spool, bodies: Any) -> None:
        end = spool._end
        real(spool, bodies)
        spool._end = end
        raise KeyboardInterrupt

    for cut in (before, after):
        monkeypatch.setattr(Spool, "append", cut)
        with pytest.raises(KeyboardInterrupt):
            outbox.accept([event(outbox.next_seq)])
        monkeypatch.undo()
        outbox.accept([event(outbox.next_seq)])
    outbox.release()
    assert outbox.take(1, 99, 10**9) == [event(n) for n in range(1, 8)]


def test_a_signal_handler_that_records_while_the_agent_does(
    shelf: Shelf, directory: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = filled(2, shelf)
    real = Spool._write

    def interrupted(spool: Spool, data: bytes, offset: int) -> None:
        monkeypatch.undo()
        outbox.accept([event(outbox.next_seq)])
        real(spool, data, offset)

    monkeypatch.setattr(Spool, "_write", interrupted)
    outbox.accept([event(3)])
    outbox.accept([event(5)])
    outbox.release()
    assert outbox.take(1, 99, 10**9) == [event(n) for n in range(1, 6)]


def test_streamed_text_is_in_the_spool_before_it_is_an_event(directory: SpoolDir, shelf: Shelf) -> None:
    outbox = filled(2, shelf)
    outbox.mark_created()
    for n, said in enumerate(("It ", "is ", "the cookie.")):
        outbox.hold_text("m1", said)
        outbox.hold_text("m2", str(n))
    assert outbox.pending == 2
    outbox.ack(2)  # the text is not cut off with the events
    shelf.close()
    again = adopted(directory)
    texts = [orjson.loads(body) for body in again.take(3, 9, 10**9)]
    assert [(one["message_id"], one["append"]) for one in texts] == [("m1", "It is the cookie."), ("m2", "012")]
    assert [one["event"] for one in texts] == ["message_updated"] * 2
    assert again.pending == 4  # the log knows the first two


def test_streamed_text_that_became_an_event_counts_once(directory: SpoolDir, shelf: Shelf) -> None:
    outbox = filled(2, shelf)
    outbox.hold_text("m", "x" * 2_000_000)
    outbox.accept([event(3)])
    outbox.hold_text("m", "y")
    outbox.accept([event(4)])
    outbox.release()
    assert outbox.take(1, 9, 10**9) == [event(n) for n in range(1, 5)]
    shelf.close()
    again = adopted(directory)
    assert again.pending == 4
    assert again.take(1, 9, 10**9) == [event(n) for n in range(1, 5)]


def test_what_is_acknowledged_leaves_a_file_that_is_never_empty(
    directory: SpoolDir, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SHRINK_BYTES", 10_000)
    outbox = filled(1000, shelf)
    (path,) = directory.files()
    for n in range(1001, 3000):
        outbox.accept([event(n)])
        outbox.release()
        assert outbox.take(n - 20, 1, 1) == [event(n - 20)]
        outbox.ack(n - 20)
    assert path.stat().st_size < 40_000
    assert outbox.take(2980, 99, 10**9) == [event(n) for n in range(2980, 3000)]
    shelf.close()
    again = adopted(directory)
    assert again.take(2980, 99, 10**9) == [event(n) for n in range(2980, 3000)]
    assert again.next_seq == 3000


def test_a_fork_leaves_the_parent_its_spool(directory: SpoolDir, shelf: Shelf) -> None:
    outbox = filled(3, shelf)
    child = os.fork()
    if not child:
        outbox.start_over()
        shelf.after_fork()
        outbox.accept([event(1)])
        os._exit(0 if outbox.spool is not None and outbox.spool.last_seq == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(directory.boxes()) == 2
    assert sum(directory.adopt(path) is not None for path in directory.boxes()) == 1  # the child is gone
    outbox.accept([event(4)])
    outbox.release()
    assert outbox.take(1, 9, 10**9) == [event(n) for n in range(1, 5)]


def test_a_take_is_bounded() -> None:
    outbox = filled(10)
    assert outbox.take(2, 3, 10**9) == [event(2), event(3), event(4)]
    assert outbox.take(2, 99, 1) == [event(2)]
    assert outbox.take(11, 99, 1) == []


def test_the_next_process_goes_on_with_the_same_numbers(directory: SpoolDir, shelf: Shelf) -> None:
    outbox = filled(5, shelf)
    shelf.close()
    again = adopted(directory)
    assert (again.producer, again.spec, again.acked, again.pending) == (outbox.producer, SPEC, 0, 5)
    again.ack(2)  # as the log says
    assert again.take(3, 99, 10**9) == [event(3), event(4), event(5)]
    again.ack(5)
    assert directory.files() == []


def test_without_room_the_newest_are_dropped_and_told_of(
    directory: SpoolDir, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "MEMORY_BYTES", 1000)
    monkeypatch.setattr(outbox_module, "DISK_AGAIN_S", 0.0)
    directory.limit_bytes = 500
    outbox = filled(3, shelf)
    while outbox.accept([event(0)]):
        pass
    assert not caplog.records  # as the lock may be held
    outbox.say()
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    assert not outbox.accept([event(0), event(0)])
    assert outbox.memory_bytes <= 1000
    assert outbox.dropped == 3
    outbox.ack(20)
    assert outbox.accept([event(99)])
    *_, dropped, last = outbox.take(21, 1000, 10**9)
    assert (orjson.loads(dropped), last) == ({"event": "recorder_dropped", "count": 3}, event(99))
    validate_event(parse_json(dropped))


def test_a_disk_that_is_full_for_a_while(
    directory: SpoolDir, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "DISK_AGAIN_S", 0.0)
    outbox = filled(3, shelf)
    limit, directory.limit_bytes = directory.limit_bytes, 0
    for n in range(4, 9):
        assert outbox.accept([event(n)])
    assert outbox.unsaved == 5
    directory.limit_bytes = limit
    outbox.accept([event(9)])
    assert outbox.unsaved == 0
    outbox.release()
    assert outbox.take(1, 99, 10**9) == [event(n) for n in range(1, 10)]
    outbox.say()
    assert len(caplog.records) == 1


def test_without_a_disk_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MEMORY_BYTES", 1000)
    outbox = Outbox(SPEC)
    assert sum(outbox.accept([event(1)]) for _ in range(100)) == 1000 // len(event(1))


def test_a_spool_that_is_damaged_costs_what_was_in_it_and_no_more(directory: SpoolDir, shelf: Shelf) -> None:
    outbox = filled(5, shelf)
    outbox.ack(1)
    outbox.release()
    outbox.accept([event(6)])
    assert outbox.spool is not None
    outbox.spool.path.write_bytes(b"\0" * 1000)
    assert outbox.take(2, 99, 10**9) == []
    assert (outbox.acked, outbox.dropped) == (5, 4)
    assert outbox.take(6, 99, 10**9) == [event(6)]
    assert outbox.wire_seq(6) == 1  # under a new name, as a seq may not be missing


def test_a_server_that_lost_its_past_gets_a_new_producer() -> None:
    outbox = filled(5)
    outbox.ack(3)
    name = outbox.producer
    outbox.renumber()
    assert outbox.producer == f"{name}.4"
    assert [outbox.wire_seq(4), outbox.own_seq(2)] == [1, 5]
    outbox.ack(4)
    outbox.renumber()
    assert (outbox.producer, outbox.wire_seq(5)) == (f"{name}.5", 1)


def test_a_refused_event_is_told_of_in_its_place(shelf: Shelf) -> None:
    outbox = filled(5, shelf)
    body = substitute(event(2), "unknown_goal", "there is none")
    validate_event(parse_json(body))
    said = orjson.loads(body)
    assert (said["original_event"], said["refused"]) == ("thought", orjson.loads(event(2)))
    outbox.replace(2, body)
    outbox.release()
    assert outbox.take(1, 3, 10**9) == [event(1), body, event(3)]
    outbox.ack(2)
    assert not outbox.replaced(2)


# --- the window --------------------------------------------------------------------------------------------------


def test_the_window_is_bounded() -> None:
    window = Window(0)
    for _ in range(IN_FLIGHT):
        assert window.room() == BATCH_EVENTS
        window.sent(10)
    assert window.room() == 0
    window.acked(10)
    assert window.room() == BATCH_EVENTS
    assert window.next == 161


@pytest.mark.parametrize("code", ["unavailable", "too_many", "unknown_trace"])
def test_what_time_can_help_breaks_the_line(code: str) -> None:
    window = Window(0)
    window.sent(3)
    with pytest.raises(LineBroken):
        window.nacked(1, code, None, 1)


def test_a_fault_of_the_servers_is_given_three_tries_and_then_blamed_on_the_event() -> None:
    for failures in (1, 2):
        window = Window(0)
        window.sent(1)
        with pytest.raises(LineBroken):
            window.nacked(1, "error", None, failures)
    window = Window(0)
    window.sent(1)
    assert window.nacked(1, "error", None, 3) == 1


def test_an_answer_to_nothing_breaks_the_line() -> None:
    with pytest.raises(LineBroken):
        Window(0).nacked(7, "sequence_gap", 1, 1)


class FakeServer:
    """What the protocol says a log does with a producer's appends."""

    def __init__(self, poison: set[int]) -> None:
        self.poison = poison
        self.stored: list[dict[str, Any]] = []
        self.last_seq = 0

    def append(self, seq: int, bodies: list[bytes]) -> tuple[str | None, int]:
        """``(None, seq of the last)`` or ``(code, expected_seq)``."""
        if seq > self.last_seq + 1:
            return "sequence_gap", self.last_seq + 1
        new = [orjson.loads(body) for body in bodies][self.last_seq + 1 - seq :]
        if any(one.get("n") in self.poison for one in new):
            return "unknown_goal", 0
        self.stored += new
        self.last_seq = max(self.last_seq, seq + len(bodies) - 1)
        return None, seq + len(bodies) - 1


def converse(outbox: Outbox, server: FakeServer, cut: int, lost_acks: int, batch: int) -> None:
    """One connection: as many appends as ``cut`` are handled, the last ``lost_acks`` answers do not arrive."""
    outbox.ack(server.last_seq)
    window = Window(outbox.acked)
    answers: list[tuple[int, str | None, int]] = []
    for turn in range(cut):
        while room := window.room():
            bodies = outbox.take(window.next, min(room, batch), 10**9)
            if not bodies:
                break
            seq = window.sent(len(bodies))
            answers.append((seq, *server.append(seq, bodies)))
        if not answers:
            return
        seq, code, fact = answers.pop(0)
        if turn >= cut - lost_acks:
            continue
        if code is None:
            outbox.ack(fact)
            window.acked(fact)
        elif culprit := window.nacked(seq, code, fact if code == "sequence_gap" else None, 1):
            (body,) = outbox.take(culprit, 1, 1)
            outbox.replace(culprit, substitute(body, code, "poison"))
        if window.settle(outbox.acked) and window.expected is not None:
            outbox.ack(window.expected - 1)
            window.expected, window.next = None, outbox.acked + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    poison=st.sets(st.integers(1, 60), max_size=5),
    turns=st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(0, 3), st.integers(1, 7), st.booleans()),
        max_size=8,
    ),
)
def test_for_any_faults_each_event_is_stored_once_in_order(
    directory: SpoolDir, shelf: Shelf, poison: set[int], turns: list[tuple[int, int, int, int, bool]]
) -> None:
    outbox, server, n = Outbox(SPEC, shelf=shelf), FakeServer(poison), 0
    for more, cut, lost_acks, batch, spill in turns:
        for _ in range(more):
            n += 1
            outbox.accept([event(n)])
        if spill:
            outbox.release()
        converse(outbox, server, cut, lost_acks, batch)
    converse(outbox, server, 10_000, 0, 5)
    outbox.mark_created()
    outbox.rest()
    outbox.rest()
    assert outbox.pending == 0
    assert [one.get("n") or -1 for one in server.stored] == [-1 if i in poison else i for i in range(1, n + 1)]
    assert directory.files() == []


def test_the_search_for_a_culprit_is_short() -> None:
    outbox, server = Outbox(SPEC), FakeServer({300})
    for n in range(1, 501):
        outbox.accept([event(n)])
    appends = 0
    real = server.append

    def counted(seq: int, bodies: list[bytes]) -> tuple[str | None, int]:
        nonlocal appends
        appends += 1
        return real(seq, bodies)

    server.append = counted  # type: ignore[method-assign]
    converse(outbox, server, 10_000, 0, 500)
    assert outbox.pending == 0
    assert appends < 40


# --- sub-traces that wait for their parent ----------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_ack_wakes_only_the_sub_traces_whose_turn_has_come(directory: SpoolDir) -> None:
    """To wake all of them at each ack takes the square of their number: 28 s of CPU for 1,600."""
    uplink: Any = None  # nothing is sent
    parent = Delivery(filled(20), uplink, directory)
    followers: list[Delivery] = []
    for seq in (*range(1, 11), *range(1, 11)):
        follower = Delivery(Outbox({"trace_id": f"c{seq}"}, after=(parent.outbox, seq)), uplink, directory)
        follower.parent = parent
        followers.append(follower)
    waiting = [asyncio.create_task(follower._parent_is_there()) for follower in followers]
    await asyncio.sleep(0)
    parent.outbox.mark_created()
    for seq in range(1, 10):
        parent.outbox.ack(seq)
        parent._wake_followers()
        assert [n % 10 + 1 for n, one in enumerate(followers) if one.wake.is_set()] == [seq, seq]
        await asyncio.wait([waiting[seq - 1], waiting[seq + 9]], timeout=DEADLINE_S)
        for one in followers:
            one.wake.clear()
    parent.finish()  # the others need not wait any longer: nothing more is to come
    await asyncio.wait(waiting, timeout=DEADLINE_S)
    assert all(one.done() for one in waiting)
