"""What is large comes in with little memory: long files, long lines, and sessions of any length."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tracewatch.importers import (
    ImportFault,
    claude_code,
    claude_lines,
    codex_rollouts,
    detect,
    long_dict,
    open_import,
    reading,
    timeline,
)
from tracewatch.importers.following import GrowingFile
from tracewatch.importers.ledger import steps_of
from tracewatch.importers.long_dict import LongDict
from tracewatch.importers.timeline import LineCutter, Timeline

from .folding import fold
from .test_claude_code import Lines
from .test_codex import Rollout


@pytest.mark.parametrize("near", [1, 2, 7, 1000])
def test_a_long_dict_is_a_dict_whatever_is_in_memory(near: int) -> None:
    chosen, mine, plain = random.Random(near), LongDict[int](near), dict[str, int]()
    for number in range(600):
        key = f"k{chosen.randrange(200)}"
        assert (mine.get(key), key in mine) == (plain.get(key), key in plain)
        mine[key] = plain[key] = number
    assert mine.get("none", 5) == 5
    for key in ("k1", "k77", "k199"):
        keys = list(plain)
        assert list(mine.after(key)) == [(k, plain[k]) for k in keys[keys.index(key) + 1 :]]
    assert (list(mine.after("none")), list(mine.after(None))) == ([], list(plain.items()))


def test_a_temporary_file_that_can_not_be_written_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = LongDict[str](2)
    for number in range(10):
        mine[str(number)] = "x"
    mine._do("PRAGMA max_page_count = 1")
    with pytest.raises(OSError, match="a temporary file"):
        for number in range(2000):
            mine[f"more {number}"] = "x" * 100


def session(rows: int, *, rewind: bool = True) -> Iterator[bytes]:
    """A session with everything that is remembered of it: prompts, answers in parts, calls, a rewind, repeats."""
    lines = Lines()
    for number in range(rows // 6):
        usage = {"input_tokens": 10, "output_tokens": number}
        lines.user(f"Do {number}.")
        lines.row("assistant", [{"type": "text", "text": "I do."}], message={"id": f"a{number}", "usage": usage})
        lines.call(f"c{number}", "Bash", command="ls").result(f"c{number}", "x" * 50).said("Done.").said("Really.")
    for number, row in enumerate(lines.rows):
        row["timestamp"] = f"2026-06-15T{10 + number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000Z"
    if rewind:
        lines.rows[-6]["parentUuid"] = lines.rows[5]["uuid"]  # back to the end of the first turn
    again = lines.rows[3 : len(lines.rows) : 50]
    yield from (orjson.dumps(row) + b"\n" for row in [*lines.rows, *again])


def test_a_session_is_the_same_whatever_of_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "5555.jsonl"
    path.write_bytes(b"".join(session(300)))
    whole = fold(open_import(path))
    monkeypatch.setattr(LongDict.__init__, "__defaults__", (8,))
    monkeypatch.setattr(timeline, "_LINES", 3)
    monkeypatch.setattr(claude_code, "TOLD", 2)
    pieces = fold(open_import(path))
    assert pieces.messages() == whole.messages()
    assert (pieces.root.status, pieces.root.total_tokens) == (whole.root.status, whole.root.total_tokens)
    assert sum(bool(m.get("left")) for m in whole.messages()) > 200


@pytest.mark.parametrize("kind", ["claude", "codex"])
def test_the_memory_that_a_session_takes_does_not_grow_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(LongDict.__init__, "__defaults__", (16,))
    monkeypatch.setattr(timeline, "_LINES", 10)
    monkeypatch.setattr(claude_lines, "_ANSWERS", 16)
    monkeypatch.setattr(claude_code, "TOLD", 10)
    monkeypatch.setattr(codex_rollouts, "TOLD", 10)

    def peak(rows: int) -> int:
        path = tmp_path / f"rollout-{rows}.jsonl"
        with path.open("wb") as file:
            if kind == "claude":
                file.writelines(session(rows, rewind=False))
            else:
                rollout = Rollout()
                for number in range(rows // 3):
                    rollout.call(f"c{number}", "shell", {"n": number}, "ok").said("assistant", "Done.")
                for number, row in enumerate(rollout.rows):
                    row["timestamp"] = f"2026-06-15T10:{number // 60 % 60:02d}:{number % 60:02d}.000Z"
                file.writelines(orjson.dumps(row) + b"\n" for row in rollout.rows)
        tracemalloc.start()
        for _ in steps_of(open_import(path)):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(60)  # what is loaded once
    few, many = peak(120), peak(600)
    assert many < 2 * few


# --- lines that are too long -------------------------------------------------------------------------------------


def test_a_line_that_is_too_long_is_a_fault_and_the_rest_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LINE_BYTES", 2000)
    monkeypatch.setattr(timeline, "LINE_BYTES", 2000)
    rows = Lines().user("Go.").said("y" * 5000).said("Done.").rows
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    done = fold(open_import(path))
    said = "this line has 5,"
    assert [(f.line, f.message[: len(said)]) for f in done.faults] == [(2, said)]
    assert [m["content"] for m in done.messages()] == ["Go.", "Done."]
    followed = [(n, row if isinstance(row, dict) else row.message) for n, row in GrowingFile(path).read()]
    assert [number for number, _ in followed] == [1, 2, 3]
    assert said in followed[1][1]
    assert detect(path) == "claude-code"


def test_lines_are_cut_wherever_the_bytes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "LINE_BYTES", 10)
    data = b"one\n\n" + b"x" * 50 + b"\nthree\nrest"
    for size in (1, 2, 7, 100):
        cutter, found = LineCutter(), []
        for place in range(0, len(data), size):
            found += cutter.cut(data[place : place + size])
        kept = [line if isinstance(line, bytes) else line.message[:22] for _, line in found]
        assert kept == [b"one", b"", "this line has 50 bytes", b"three"]
        assert [number for number, _ in found] == [1, 2, 3, 4]
        assert (cutter.rest(), cutter.take_rest(), cutter.take_rest()) == (b"rest", (5, b"rest"), None)
        assert cutter.cut(b"\nnext\n") == [(5, b""), (6, b"next")]


def test_a_document_that_is_too_large_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DOCUMENT_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_text('[\n{"role": "user", "content": "%s"}\n]' % ("x" * 2000))
    (fault,) = open_import(path)
    assert fault == ImportFault("this is one JSON document of 2,035 bytes; what can be read has up to 1,000", 1)


# --- the order of lines ------------------------------------------------------------------------------------------


def test_lines_of_many_files_come_in_the_order_of_their_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_LINES", 4)
    lines = Timeline()
    chosen, expected = random.Random(1), []
    for number in range(5):
        seconds = sorted(chosen.sample(range(59), 30))
        rows: list[Any] = [{"timestamp": f"2026-06-15T10:00:{s:02d}.000Z", "n": s} for s in seconds]
        rows[3:5] = reversed(rows[3:5])  # within reach
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        assert lines.add(path, lambda row: True) == number
        expected += [(s, number) for s in seconds]
    assert [(row["n"], number) for number, _, row, _ in lines.rows()] == sorted(expected)


assert long_dict.NEAR > 1000  # so that most sessions need no file
