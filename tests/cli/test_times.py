"""One clock for the whole command line: local on a terminal, RFC 3339 in a pipe, and none for runs without times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cli.conftest import Run, done, record
from tests.cli.events import stored
from tracewatch.cli.lines import Narrator
from tracewatch.cli.screen import Screen
from tracewatch.cli.times import OwnTimes, shown
from tracewatch.client.api import Api


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user in Berlin, with summer time, on a machine without data on time zones."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_a_time_has_its_zone_and_its_date_where_that_is_not_today() -> None:
    assert shown("2026-03-01T13:05:01.123Z", on_terminal=True) == "2026-03-01 14:05:01 CET"
    assert shown("2026-06-30T22:05:01.123Z", on_terminal=True, milliseconds=True) == "2026-07-01 00:05:01.123 CEST"
    assert shown("2026-03-01T13:05:01.123Z", on_terminal=False) == "2026-03-01T13:05:01.123Z"
    now = datetime.now(UTC)
    there = now.astimezone()
    if there.day == datetime.now().astimezone().day:  # not over midnight
        assert shown(now.isoformat(), on_terminal=True) == f"{there:%H:%M:%S %Z}"


def printed(*events: dict[str, Any], width: int | None = 100, timeless: bool = False) -> list[str]:
    out: list[str] = []
    screen = Screen(out.append, color=False, width=None if width is None else lambda: width)
    narrator = Narrator("t1", timeless=timeless)
    for event, _ in stored("t1", *events):
        line = narrator.tell(event)
        assert line is not None
        screen.show(line)
    return "".join(out).splitlines()


def said(text: str, at: str | None = None) -> dict[str, Any]:
    event = {"event": "message_added", "message": {"role": "user", "content": text}}
    return event if at is None else {**event, "occurred_at": at}


@pytest.mark.usefixtures("berlin")
def test_a_line_above_the_first_event_of_a_day_says_which() -> None:
    events = (said("a", "2025-03-29T22:30:00Z"), said("b", "2025-03-29T23:30:00Z"), said("c", "2025-03-30T10:00:00Z"))
    assert printed(*events) == [
        "── 2025-03-29 CET ──",
        "23:30:00.000 ❯ user      a",
        "── 2025-03-30 CET ──",
        "00:30:00.000 ❯ user      b",
        "── 2025-03-30 CEST ──",
        "12:00:00.000 ❯ user      c",
    ]
    assert printed(*events, width=None)[0] == "2025-03-29T22:30:00.000Z ❯ user a"
    assert printed(*events, width=30) == ["❯ user a", "❯ user b", "❯ user c"], "there is no room for a time"


@pytest.mark.parametrize(
    ("zone", "before", "after", "day", "clock"),
    [
        ("IST-5:30", "2026-03-01T18:29:59Z", "2026-03-01T18:30:00Z", "2026-03-02", "00:00:00.000"),
        ("NPT-5:45", "2026-03-01T18:14:59Z", "2026-03-01T18:15:00Z", "2026-03-02", "00:00:00.000"),
        # Newfoundland, after its clocks went forward
        ("NST3:30NDT,M3.2.0,M11.1.0", "2026-03-09T02:29:59Z", "2026-03-09T02:30:00Z", "2026-03-09", "00:00:00.000"),
        # Lord Howe Island, where they go back by half an hour: a day of 24 hours and a half
        ("LHST-10:30LHDT-11,M10.1.0,M4.1.0", "2026-04-05T13:29:59Z", "2026-04-05T13:30:00Z", "2026-04-06",
         "00:00:00.000"),
        # Chile, where they go forward at midnight
        ("CLT4CLST,M9.1.0/0,M4.1.0/0", "2026-09-06T03:59:59Z", "2026-09-06T04:00:00Z", "2026-09-06", "01:00:00.000"),
    ],
)  # fmt: skip
def test_days_change_where_they_do_for_the_user(
    monkeypatch: pytest.MonkeyPatch, zone: str, before: str, after: str, day: str, clock: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        lines = printed(said("a", before), said("b", after))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [line.split()[0] for line in lines] == ["──", "23:59:59.000", "──", clock]
    assert lines[2].split()[1] == day


def test_a_run_without_times_has_its_steps() -> None:
    assert printed(said("a"), said("b"), timeless=True) == ["    #1 ❯ user      a", "    #2 ❯ user      b"]
    assert printed(said("a"), width=None, timeless=True) == ["#1 ❯ user a"]


def test_what_the_server_wrote_among_late_events_happened_with_them() -> None:
    times = OwnTimes()
    events: list[dict[str, Any]] = [
        {"ts": "2026-11-20T08:00:00.000Z"},
        {"ts": "2026-11-20T08:00:01.000Z", "occurred_at": "2025-01-01T00:00:00.000Z"},
        {"ts": "2026-11-20T08:00:01.000Z"},
        {"ts": "2026-11-20T08:00:02.000Z", "occurred_at": "2026-11-20T08:00:01.900Z"},
        {"ts": "2026-11-20T08:00:03.000Z"},
    ]
    assert [times.of(event)[:19] for event in events] == [
        *("2026-11-20T08:00:00", "2025-01-01T00:00:00", "2025-01-01T00:00:00"),
        *("2026-11-20T08:00:01", "2026-11-20T08:00:03"),
    ]


def test_show_says_when_a_run_was_and_when_it_was_stored(tw: Run, api: Api) -> None:
    end = {**done(), "occurred_at": "2025-01-01T10:40:00Z"}
    record(api, "imported", said("hello", "2025-01-01T09:00:00Z"), end, task="Old")
    rows = {line[:8].strip(): line[9:] for line in tw("show", "imported").text.splitlines()}
    assert rows["began"] == "2025-01-01T09:00:00.000Z"
    assert rows["ended"] == "2025-01-01T10:40:00.000Z, after 1h 40m"
    assert rows["stored"].startswith("20") and rows["stored"].endswith(" later") and ", delivered " in rows["stored"]
    assert "2025-01-01T09:00:00.000Z ❯ user hello" in tw("show", "imported").text
    record(api, "live", said("hello"), done())
    assert "stored" not in tw("show", "live").text
    # An end by a clock that is behind is no negative time
    skewed = {**done(), "occurred_at": "2024-01-01T00:00:00Z"}
    record(api, "skewed", said("hello", "2025-01-01T09:00:00Z"), skewed)
    assert "ended    2025-01-01T09:00:00.000Z, after 0 ms" in tw("show", "skewed").text
    row = next(line for line in tw("ls").text.splitlines() if "skewed" in line)
    assert " 0 ms " in row


def test_a_file_without_times_is_shown_by_its_steps(tw: Run, api: Api, tmp_path: Path) -> None:
    runs = [{"task_id": 1, "reward": 1.0, "info": {}, "traj": [{"role": "user", "content": "Where is it?"}]}]
    file = tmp_path / "runs.json"
    file.write_bytes(orjson.dumps(runs))
    assert tw("import", str(file)).code == 0
    run = next(trace for trace in api.traces()["traces"] if trace["agent_type"] == "tau-bench")
    assert run["metadata"]["times"] == "none"
    lines = tw("tail", run["trace_id"], "--no-follow", "-n", "all").text.splitlines()
    assert [line.split()[0] for line in lines] == ["#1", "#2", "#3"]
    both = tw("tail", run["parent_trace_id"], "--children", "--no-follow").text.splitlines()
    assert all(line.startswith("#") for line in both) and len(both) > len(lines)
    text = tw("show", run["trace_id"]).text
    assert "times    none are known; stored 20" in text and "began" not in text and "#1 ❯ user Where is it?" in text
    row = next(line for line in tw("ls", "--children").text.splitlines() if run["trace_id"] in line)
    assert row.split()[5] == "–", row
    assert tw("import", str(file)).text.startswith("2 traces, 0 events imported")


def test_several_runs_are_merged_by_when_they_were(tw: Run, api: Api) -> None:
    started = "2025-01-01T09:00:{:02d}Z"
    record(api, "top", said("first", started.format(0)), task="Top")
    record(api, "top-sub", said("second", started.format(10)), {**done(), "occurred_at": started.format(20)},
           parent_trace_id="top", task="Sub")  # fmt: skip
    api.append("top", [said("between", started.format(15)), {**done(), "occurred_at": started.format(30)}])
    text = tw("tail", "top", "--children", "--no-follow").text
    assert text.index("first") < text.index("second") < text.index("between")
