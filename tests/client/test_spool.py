"""The spool file: it is bounded and in order, a half-written line is repaired, and one process only delivers it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracewatch.client import spool as spool_module
from tracewatch.client.backlog import Backlog
from tracewatch.client.outbox import Outbox
from tracewatch.client.spool import Box, Shelf, Spool, SpoolDir, SpoolError
from tracewatch.client.target import same_log

URL = "http://127.0.0.1:1"


def header(producer: str = "p") -> dict[str, Any]:
    return {"spec": {"trace_id": f"t-{producer}"}, "producer": producer, "after": None}


def event(n: int, size: int = 0) -> bytes:
    return b'{"event":"thought","n":%d,"text":"%b"}' % (n, b"x" * size)


def events(first: int, last: int, size: int = 0) -> list[bytes]:
    return [event(n, size) for n in range(first, last + 1)]


@pytest.fixture
def directory(tmp_path: Path) -> SpoolDir:
    return SpoolDir(tmp_path / "spool", 10_000_000)


def create(directory: SpoolDir, first_seq: int = 1, name: str = "p", url: str = URL) -> tuple[Spool, Shelf]:
    """A spool of a process, and what that process holds locked."""
    shelf = Shelf(directory, url)
    return shelf.create(header(name), first_seq), shelf


def boxes(directory: SpoolDir) -> list[Box]:
    return [box for path in directory.boxes() if (box := directory.adopt(path)) is not None]


def reopened(directory: SpoolDir) -> list[Spool]:
    return [spool for box in boxes(directory) for path in box.files() if (spool := box.read_back(path)) is not None]


def waiting(directory: SpoolDir, url: str = URL) -> list[Outbox]:
    """What a process that delivers to ``url`` finds."""
    backlog = Backlog(directory, lambda header: same_log(header["url"], url))
    backlog.look()
    found = []
    while (outbox := backlog.next()) is not None:
        found.append(outbox)
    backlog.close()
    return found


def test_what_goes_in_comes_out_from_any_seq(directory: SpoolDir) -> None:
    spool, _ = create(directory, 11)
    spool.append(events(11, 300))
    spool.append(events(301, 500))
    for seq in (11, 12, 299, 300, 301, 500, 17):
        assert spool.read(seq, 1000, 10**9) == events(seq, 500)
    assert spool.read(501, 10, 100) == []


def test_a_read_is_bounded_and_goes_on_where_it_stopped(directory: SpoolDir) -> None:
    spool, _ = create(directory)
    spool.append(events(1, 50, size=100_000))
    got: list[bytes] = []
    while len(got) < 50:
        page = spool.read(len(got) + 1, 7, 450_000)
        assert 1 <= len(page) <= 4
        got += page
        spool.forget(len(got) - 5)
    assert got == events(1, 50, size=100_000)
    assert len(spool.read(47, 2, 10**9)) == 2
    assert len(spool.read(50, 9, 1)) == 1  # one event, though it alone is too large
    assert len(spool._marks) < 15


def test_the_next_process_finds_it_whole(directory: SpoolDir) -> None:
    spool, shelf = create(directory, 4)
    spool.append(events(4, 9, size=200_000))
    assert reopened(directory) == []  # locked by a living process
    shelf.close()
    (again,) = reopened(directory)
    assert (again.header["spec"], again.header["url"]) == (header()["spec"], URL)
    assert (again.first_seq, again.last_seq) == (4, 9)
    assert again.read(4, 99, 10**9) == events(4, 9, size=200_000)
    again.append(events(10, 10))
    assert again.read(9, 99, 10**9)[1:] == events(10, 10)
    again.remove()
    assert directory.files() == []


@pytest.mark.parametrize("torn", [b"{", b'{"seq":10,"event":{"event":"thou', b'{"seq":10,"event":' + event(10) + b"}"])
def test_a_torn_last_line_is_cut_off(directory: SpoolDir, torn: bytes) -> None:
    spool, shelf = create(directory, 4)
    spool.append(events(4, 9))
    shelf.close()
    with spool.path.open("ab") as file:
        file.write(torn)
    (again,) = reopened(directory)
    assert again.last_seq == 9
    again.append(events(10, 11))
    assert again.read(4, 99, 10**9) == events(4, 11)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"url":"x"}\n', b'{"url":"x"}\n{"seq":1,', b"\n\n\n", b"\xff\xfe\n\n"]
)
@pytest.mark.parametrize("name", ["1-x.spool", "1-x/000001-x.spool"], ids=["single", "in a box"])
def test_a_file_without_an_event_is_nobodys(directory: SpoolDir, content: bytes, name: str) -> None:
    path = directory.path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert waiting(directory) == []
    assert not directory.holds("t-p")
    assert directory.boxes() == []  # what can't be read is kept beside them, for a person


def test_a_spool_for_another_server_is_left_alone(directory: SpoolDir) -> None:
    spool, shelf = create(directory)
    spool.append(events(1, 1))
    shelf.close()
    assert waiting(directory, "http://elsewhere") == []
    assert directory.holds("t-p")
    assert len(waiting(directory, "http://localhost:1")) == 1


def test_a_spool_of_an_earlier_version(directory: SpoolDir) -> None:
    """One file without a box, which its process held locked."""
    directory.path.mkdir()
    first = b'{"url":"http://127.0.0.1:1","spec":{"trace_id":"t-p"},"producer":"p","base":0,"lost":0,"after":null}'
    lines = [first, *(b'{"seq":%d,"event":%b}' % (n, event(n)) for n in range(4, 10))]
    path = directory.path / "1764500000000-p.spool"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert waiting(directory) == []  # that process still lives
    (outbox,) = waiting(directory)
    assert (outbox.producer, outbox.acked, outbox.take(4, 99, 10**9)) == ("p", 3, events(4, 9))
    outbox.ack(9)
    assert directory.files() == []


def test_a_trace_without_an_event_is_delivered_too(directory: SpoolDir) -> None:
    shelf = Shelf(directory, URL)
    for created in (False, True):
        outbox = Outbox({"trace_id": f"t{created}"}, shelf=shelf)
        outbox.begin()
        if created:
            outbox.mark_created()
    shelf.close()
    (found,) = waiting(directory)
    assert (found.trace_id, found.pending) == ("tFalse", 0)


def test_thousands_of_files_wait_their_turn(directory: SpoolDir) -> None:
    """The backlog opens one at a time, and removes a box when its last file is delivered."""
    shelf = Shelf(directory, URL)
    for n in range(300):
        Outbox({"trace_id": f"t{n}"}, shelf=shelf).accept([event(1)])
    shelf.close()
    fds = Path("/proc/self/fd")
    open_before = len(list(fds.iterdir())) if fds.exists() else 0
    backlog = Backlog(directory, lambda header: True)
    assert backlog.look() == 300
    ids = []
    while (outbox := backlog.next()) is not None:
        assert outbox.spool is not None
        path = outbox.spool.path
        ids.append(outbox.trace_id)
        outbox.ack(1)
        backlog.delivered(path)
        if open_before:
            assert len(list(fds.iterdir())) <= open_before + 2
    assert ids == [f"t{n}" for n in range(300)]
    assert directory.boxes() == []


def test_files_beyond_some_are_not_kept_open(directory: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MOST_OPEN", 3)
    shelf = Shelf(directory, URL)
    outboxes = [Outbox({"trace_id": f"t{n}"}, shelf=shelf) for n in range(9)]
    for n in range(1, 6):
        for outbox in outboxes:
            outbox.accept([event(n)])
    assert shelf.box is not None and shelf.box.open_files == 3
    for outbox in outboxes:
        outbox.release()
        assert outbox.take(1, 9, 10**9) == events(1, 5)
        outbox.ended = True
        outbox.ack(5)
    assert shelf.box.open_files == 0
    assert directory.files() == []
    shelf.close()
    assert directory.boxes() == []


def test_one_process_of_several_gets_it(directory: SpoolDir) -> None:
    spool, shelf = create(directory)
    spool.append(events(1, 1))
    shelf.close()
    code = (
        "import sys; from tracewatch.client.spool import SpoolDir; d = SpoolDir(sys.argv[1], 1 << 30)\n"
        "boxes = [d.adopt(p) for p in d.boxes()]\n"
        "print(sum(box is not None for box in boxes), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(directory.path)]
    some = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        got = [process.stdout.readline().strip() for process in some if process.stdout is not None]
        assert sorted(got) == ["0", "0", "1"]
        assert reopened(directory) == []
    finally:
        for process in some:
            process.communicate("", timeout=20)
    assert len(reopened(directory)) == 1  # all of them are gone


def test_the_directory_is_bounded_over_all_files(tmp_path: Path) -> None:
    directory = SpoolDir(tmp_path, 20_000)
    (one, _), (two, _) = create(directory, name="a"), create(directory, name="b")
    one.append(events(1, 10, size=1000))
    with pytest.raises(SpoolError, match="allowed size of 20000"):
        two.append(events(1, 10, size=1000))
    assert two.last_seq == 0
    two.append(events(1, 5, size=1000))
    assert two.read(1, 99, 10**9) == events(1, 5, size=1000)
    one.remove()
    two.append(events(6, 15, size=1000))  # there is room again
    assert sum(path.stat().st_size for path in directory.files()) <= 20_000


def test_a_full_disk_leaves_no_torn_line(directory: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, _ = create(directory)
    spool.append(events(1, 3))
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(fd, data[:50], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SpoolError, match="No space left"):
        spool.append(events(4, 9))
    monkeypatch.undo()
    assert spool.path.read_bytes().endswith(event(3) + b"}\n")
    spool.append(events(4, 5))
    assert spool.read(1, 99, 10**9) == events(1, 5)


def test_a_damaged_file_is_an_error_and_kept_under_another_name(directory: SpoolDir) -> None:
    spool, _ = create(directory)
    spool.append(events(1, 9))
    with spool.path.open("r+b") as file:
        file.seek(len(spool.path.read_bytes().split(b"\n")[0]) + 1)
        file.write(b"\0" * 40)
    with pytest.raises(SpoolError, match="damaged"):
        spool.read(1, 5, 10**9)
    spool.damaged()
    assert directory.files() == []
    assert [path.suffix for path in directory.path.iterdir() if path.is_file()] == [".damaged"]


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    directory = SpoolDir(tmp_path / "file" / "spool", 10**9)
    with pytest.raises(SpoolError):
        create(directory)
    assert directory.files() == []
    assert directory.room() == 10**9


def test_others_on_the_machine_cannot_read_it(directory: SpoolDir) -> None:
    spool, _ = create(directory)
    spool.begin()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert spool.path.parent.stat().st_mode & 0o777 == 0o700
    assert spool.path.stat().st_mode & 0o777 == 0o600
