"""The spool file: it is bounded and in order, a half-written line is repaired, and one process only delivers it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracewatch.client.spool import Spool, SpoolDir, SpoolError

URL = "http://127.0.0.1:1"


def header(producer: str = "p", url: str = URL) -> dict[str, Any]:
    return {"url": url, "spec": {"trace_id": f"t-{producer}"}, "producer": producer, "after": None}


def event(n: int, size: int = 0) -> bytes:
    return b'{"event":"thought","n":%d,"text":"%b"}' % (n, b"x" * size)


def events(first: int, last: int, size: int = 0) -> list[bytes]:
    return [event(n, size) for n in range(first, last + 1)]


@pytest.fixture
def directory(tmp_path: Path) -> SpoolDir:
    return SpoolDir(tmp_path / "spool", 10_000_000)


def reopened(directory: SpoolDir, url: str = URL) -> list[Spool]:
    found = [directory.adopt(path, url) for path in directory.files()]
    return [spool for spool in found if spool is not None]


def test_what_goes_in_comes_out_from_any_seq(directory: SpoolDir) -> None:
    spool = directory.create(header(), 11)
    spool.append(events(11, 300))
    spool.append(events(301, 500))
    for seq in (11, 12, 299, 300, 301, 500, 17):
        assert spool.read(seq, 1000, 10**9) == events(seq, 500)
    assert spool.read(501, 10, 100) == []
    spool.close()


def test_a_read_is_bounded_and_goes_on_where_it_stopped(directory: SpoolDir) -> None:
    spool = directory.create(header(), 1)
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
    spool.close()


def test_the_next_process_finds_it_whole(directory: SpoolDir) -> None:
    spool = directory.create(header(), 4)
    spool.append(events(4, 9, size=200_000))
    assert reopened(directory) == []  # locked by a living process
    spool.close()
    (again,) = reopened(directory)
    assert (again.header, again.first_seq, again.last_seq) == (header(), 4, 9)
    assert again.read(4, 99, 10**9) == events(4, 9, size=200_000)
    again.append(events(10, 10))
    assert again.read(9, 99, 10**9)[1:] == events(10, 10)
    again.remove()
    assert directory.files() == []


@pytest.mark.parametrize("torn", [b"{", b'{"seq":10,"event":{"event":"thou', b'{"seq":10,"event":' + event(10) + b"}"])
def test_a_torn_last_line_is_cut_off(directory: SpoolDir, torn: bytes) -> None:
    spool = directory.create(header(), 4)
    spool.append(events(4, 9))
    spool.close()
    with spool.path.open("ab") as file:
        file.write(torn)
    (again,) = reopened(directory)
    assert again.last_seq == 9
    again.append(events(10, 11))
    assert again.read(4, 99, 10**9) == events(4, 11)
    again.close()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"url":"x"}\n', b'{"url":"x"}\n{"seq":1,', b"\n\n\n", b"\xff\xfe\n\n"]
)
def test_a_file_without_an_event_is_nobodys(directory: SpoolDir, content: bytes) -> None:
    directory.path.mkdir()
    (directory.path / "1-x.spool").write_bytes(content)
    assert reopened(directory) == []
    assert not directory.holds("t-p")


def test_a_spool_for_another_server_is_left_alone(directory: SpoolDir) -> None:
    spool = directory.create(header(), 1)
    spool.append(events(1, 1))
    spool.close()
    assert reopened(directory, "http://elsewhere") == []
    assert directory.holds("t-p")
    assert len(reopened(directory)) == 1


def test_one_process_of_several_gets_it(directory: SpoolDir) -> None:
    spool = directory.create(header(), 1)
    spool.append(events(1, 1))
    spool.close()
    code = (
        "import sys; from tracewatch.client.spool import SpoolDir; d = SpoolDir(sys.argv[1], 1 << 30)\n"
        "print(sum(d.adopt(p, sys.argv[2]) is not None for p in d.files()), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(directory.path), URL]
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
    one, two = directory.create(header("a"), 1), directory.create(header("b"), 1)
    one.append(events(1, 10, size=1000))
    with pytest.raises(SpoolError, match="allowed size of 20000"):
        two.append(events(1, 10, size=1000))
    assert two.last_seq == 0
    two.append(events(1, 5, size=1000))
    assert two.read(1, 99, 10**9) == events(1, 5, size=1000)
    one.remove()
    two.append(events(6, 15, size=1000))  # there is room again
    assert sum(path.stat().st_size for path in directory.files()) <= 20_000
    two.close()


def test_a_full_disk_leaves_no_torn_line(directory: SpoolDir, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = directory.create(header(), 1)
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
    spool.close()


def test_a_damaged_file_is_an_error_and_kept_under_another_name(directory: SpoolDir) -> None:
    spool = directory.create(header(), 1)
    spool.append(events(1, 9))
    with spool.path.open("r+b") as file:
        file.seek(len(spool.path.read_bytes().split(b"\n")[0]) + 1)
        file.write(b"\0" * 40)
    with pytest.raises(SpoolError, match="damaged"):
        spool.read(1, 5, 10**9)
    spool.damaged()
    assert directory.files() == []
    assert [path.suffix for path in directory.path.iterdir()] == [".damaged"]


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    directory = SpoolDir(tmp_path / "file" / "spool", 10**9)
    with pytest.raises(SpoolError):
        directory.create(header(), 1)
    assert directory.files() == []
    assert directory.room() == 10**9


def test_others_on_the_machine_cannot_read_it(directory: SpoolDir) -> None:
    spool = directory.create(header(), 1)
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert spool.path.stat().st_mode & 0o777 == 0o600
    spool.close()
