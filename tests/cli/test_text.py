"""Words and numbers for a terminal."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from tracewatch.cli.text import (
    age,
    count,
    cut,
    dollars,
    duration,
    escape,
    escape_after,
    json_document,
    one_line,
    parse_duration,
    short,
    used,
    wrap,
)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("over\rwritten\r\n\r", "over\nwritten\n\n"),
        ("\U0001f469\u200d\U0001f4bb \U0001f44d\U0001f3fd\u200d\u2764\ufe0f\u200d\U0001f525",) * 2,
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष שָׁלוֹם", "क्\u200dष שָׁלוֹם"),
        ("pay\u200dpal a\u200c \u200d", "pay\\u200dpal a\\u200c \\u200d"),
        ("\u034f\u200d \u200d\u200d", "\\u034f\\u200d \\u200d\\u200d"),
        ("back\x08space\x7f", "back\\x08space\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066a\u2069", "\\u2066a\\u2069"),
        ("in\u200bvisi\ufeffble\u2060", "in\\u200bvisi\\ufeffble\\u2060"),
        ("a\u2028b", "a\\u2028b"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("half \ud83d", "half \\ud83d"),
        ("dos\r\nunix\n", "dos\nunix\n"),
        ("Grüße, 世界 ✓ 👩", "Grüße, 世界 ✓ 👩"),
    ],
)
def test_what_is_not_plainly_visible_is_written_out(hostile: str, shown: str) -> None:
    assert escape(hostile) == shown


@given(st.text())
def test_no_escaped_text_can_move_the_cursor_or_hide(hostile: str) -> None:
    shown = escape(hostile)
    assert not any((ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert not any(c in shown for c in "\u200b\u200e\u202a\u202e\u2066\u2069\ufeff")
    for at, character in enumerate(shown):  # a joiner stands only where it joins
        assert character not in "\u200c\u200d" or (at and not shown[at - 1].isascii())
    assert "\n" not in one_line(hostile)


@given(st.lists(st.text("a👩\u200d💻\r\nی\u200c\t", max_size=4)))
def test_text_that_comes_in_pieces_is_shown_as_the_whole(pieces: list[str]) -> None:
    pieces = [piece.replace("\t", " ") for piece in pieces if piece]
    before, shown = "", ""
    for piece in pieces:
        shown += escape_after(before, piece)
        before = piece
    assert shown == escape("".join(pieces))


@example("a\x7f\x9b\u202e\U000e0041")
@given(st.text().filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_json_for_people_is_the_same_json_and_plainly_visible(hostile: str) -> None:
    document = json_document({"text": hostile})
    assert orjson.loads(document) == {"text": hostile}
    assert escape(document.decode()) == document.decode()


@given(st.text(alphabet=st.sampled_from("ab 世\n")), st.integers(4, 30), st.integers(2, 30))
def test_wrapped_rows_fit_and_lose_nothing_but_blanks(words: str, width: int, first: int) -> None:
    rows = list(wrap(words, width, first))
    assert cell_len(rows[0].rstrip()) <= first
    assert all(cell_len(row.rstrip()) <= width for row in rows[1:])
    assert "".join("".join(rows).split()) == "".join(words.split())


def test_wrap_breaks_at_blanks_and_keeps_line_breaks() -> None:
    assert list(wrap("one two three\n\nfour", 9)) == ["one two", "three", "", "four"]
    assert list(wrap("three", 9, 2)) == ["", "three"]
    assert list(wrap("x" * 12, 5)) == ["xxxxx", "xxxxx", "xx"]
    assert list(wrap("世世世世ab", 4, 5)) == ["世世", "世世", "ab"]
    assert list(wrap("👩\u200d💻" * 3 + " می\u200cخواهم", 4)) == ["👩\u200d💻" * 2, "👩\u200d💻", "می\u200cخو", "اهم"]


def test_cut_counts_cells() -> None:
    assert cut("世界世界", 5) == "世界…"
    assert cut("short", 5) == "short"


def test_numbers() -> None:
    assert [duration(ms) for ms in (850, 1234, 59_960, 184_000, 7_500_000, 300_000_000)] == [
        *("850 ms", "1.2 s", "1m 00s", "3m 04s", "2h 05m", "3d 11h")
    ]
    assert duration(-3_600_000) == "0 ms", "of a run that began before the clock was set back"
    assert [age(s) for s in (-1, 59, 61, 7200, 90000)] == ["0s", "59s", "1m", "2h", "1d"]
    assert (count(1, "event"), count(1234, "event"), count(0)) == ("1 event", "1,234 events", "0")
    assert (dollars(0), dollars(0.00421), dollars(12.345)) == ("$0.00", "$0.0042", "$12.35")
    assert dollars(None) == "–", "what is not known"


@pytest.mark.parametrize(
    ("given", "seconds"), [("90", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("1.5s", 1.5)]
)
def test_durations_are_read(given: str, seconds: float) -> None:
    assert parse_duration(given) == seconds


@pytest.mark.parametrize("given", ["", "m", "5 minutes", "-5m", "2026-11-20", "5m1h"])
def test_what_is_no_duration_is_none(given: str) -> None:
    assert parse_duration(given) is None


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((0, "0"), (999, "999"), (1000, "1k"), (1540, "1.5k"), (9949, "9.9k"), (9950, "10k")),
        *((999_499, "999k"), (999_500, "1M"), (1_250_000, "1.2M"), (2 * 10**9, "2G"), (10**13, "10000G")),
    ],
)
def test_short_numbers(number: int, shown: str) -> None:
    assert short(number) == shown


@pytest.mark.parametrize(
    ("usage", "tokens", "shown"),
    [
        ({"input_tokens": 1500, "output_tokens": 200, "cache_read_tokens": 1200}, 1700, "1.5k → 200 · 1.2k cached"),
        ({"output_tokens": 200, "reasoning_tokens": 150}, 200, "0 → 200 · 150 reasoning"),
        (None, 1700, "1,700 tokens"),
        ({"cache_read_tokens": 5}, 0, ""),
        (None, None, ""),
    ],
)
def test_what_was_used_is_said_by_its_parts_where_they_are_known(
    usage: dict[str, int] | None, tokens: int | None, shown: str
) -> None:
    assert used({"usage": usage}, tokens) == shown
