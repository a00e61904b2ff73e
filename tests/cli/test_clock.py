"""Ages, durations and ``--since`` on a machine whose clock is wrong: they go by the server's clock."""

from __future__ import annotations

import re
import time

import orjson
import pytest

from tests.cli.conftest import Run, record, thought
from tracewatch.client.api import Api

ASKED = {"event": "input_requested", "question": "Really?", "expires_in_s": 100_000}


@pytest.mark.parametrize("ahead_s", [-86_400, 86_400])
def test_what_has_just_happened_is_now(tw: Run, api: Api, monkeypatch: pytest.MonkeyPatch, ahead_s: int) -> None:
    wall, began = time.time, time.monotonic()
    trace_id = record(api, f"fresh-{'ahead' if ahead_s > 0 else 'behind'}", thought("hm"), ASKED)
    monkeypatch.setattr(time, "time", lambda: wall() + ahead_s)
    row = next(line for line in tw("ls").text.splitlines() if trace_id in line)
    age, took = re.findall(r"\b(\d+)(?:\.\d)?(?:s| s| ms)\b", row)[:2]
    assert int(age) <= time.monotonic() - began + 1, row
    assert int(took) <= 1000, row  # of milliseconds or seconds
    questions = tw("inputs").text
    assert re.search(rf"{trace_id} .*asked \d+s ago, expires in 1d", questions), questions
    events = tw("tail", trace_id, "--since", "5m", "--no-follow", "-o", "ndjson").out.splitlines()
    assert [orjson.loads(line)["event"] for line in events] == ["thought", "input_requested"]


def test_since_goes_by_the_time_of_appending(tw: Run, api: Api) -> None:
    """A recorder's own clock may be wrong too."""
    long_ago = {**thought("hm"), "occurred_at": "2001-01-01T00:00:00Z"}
    record(api, "wrong-recorder", long_ago, {**thought("ho"), "occurred_at": "2099-01-01T00:00:00Z"})
    for since, found in (("5m", 2), ("2050-01-01T00:00:00Z", 0)):
        ran = tw("tail", "wrong-recorder", "--since", since, "--no-follow", "-o", "ndjson")
        assert len(ran.out.splitlines()) == found
