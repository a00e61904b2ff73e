"""The position at which a tail begins, and its cursor file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracewatch.cli.common import CliError
from tracewatch.cli.position import CursorFile, Position, choose_start, parse_since

NOW = 1_795_161_600.0  # 2026-11-20T08:00:00Z


def start(**given: Any) -> Position:
    defaults: dict[str, Any] = {"count": None, "since": None, "after": None, "cursor_file": None}
    return choose_start(**defaults | {"filtered": False, "children": False, "now_s": NOW} | given)


def test_the_end_by_habit_and_everything_where_a_part_would_mislead(tmp_path: Path) -> None:
    assert start().since == "-20"
    assert start(filtered=True).since is None
    assert start(children=True).since is None
    assert start(cursor_file=CursorFile(tmp_path / "c")).since is None


def test_as_told() -> None:
    assert start(count="5").since == "-5"
    assert start(count="0").since == "latest"
    assert start(count="all").since is None
    assert start(after="abc.41").since == "abc.41"
    assert start(since="5m") == Position(from_s=NOW - 300)
    assert parse_since("2026-11-20T09:00:00+01:00", NOW) == NOW


@pytest.mark.parametrize(
    "given",
    [
        {"count": "-1"},
        {"count": "many"},
        {"after": "nonsense!"},
        {"since": "yesterday"},
        {"count": "5", "after": "41"},
        {"since": "5m", "after": "41"},
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(CliError) as caught:
        start(**given)
    assert caught.value.exit_code == 2


def test_a_cursor_file_wins_over_where_to_begin_at_first(tmp_path: Path) -> None:
    file = CursorFile(tmp_path / "c")
    assert start(cursor_file=file, count="5").since == "-5"
    file.write("abc.41", {"sub": 7})
    assert start(cursor_file=CursorFile(tmp_path / "c"), count="5") == Position("abc.41", sub_traces={"sub": 7})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("content", [b"garbage\n", b"abc.41\nsub seven\n", b"\xff\xfe"])
def test_a_file_that_is_no_cursor_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(CliError, match="notes"):
        CursorFile(path).read()
    assert path.read_bytes() == content


def test_an_empty_file_is_no_cursor_and_an_unwritable_one_an_error(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    assert CursorFile(tmp_path / "c").read() is None
    with pytest.raises(CliError, match="cursor-file"):
        CursorFile(tmp_path / "absent" / "c").read()
    with pytest.raises(CliError, match="cursor-file"):
        CursorFile(tmp_path / "absent" / "c").write("abc.1", {})
