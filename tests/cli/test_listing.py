"""``ls`` and ``show``, and the ways to name a trace."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Run, Spawned, done, record, thought
from tests.support import ServerProcess
from tracewatch.cli.common import CliError
from tracewatch.cli.traces import find_trace, parse_url
from tracewatch.client.api import Api


@pytest.fixture(scope="module", autouse=True)
def traces(server: ServerProcess) -> None:
    """A few runs, one with sub-traces."""
    api = Api(server.url)
    record(api, "old-1", thought("hm"), done("failed"), task="Fix the \x1b[31mlogin", agent_type="coder")
    record(api, "old-2", done(), task="Write a test", metadata={"k": "\u202e"})
    goal = {"event": "goal_added", "goal": {"id": "g", "description": "Do \u200bit", "status": "in_progress"}}
    message = {"event": "message_added", "message": {"role": "user", "content": "Go\x07", "tokens": 1200, "cost": 0.5}}
    record(api, "new-root", goal, message, task="Big one")
    record(api, "new-root-sub", thought("hm"), done(), parent_trace_id="new-root", agent_type="helper", task="Part")
    api.append("new-root", [{"event": "input_requested", "question": "Really?\x1b"}])


def listed(ran_out: bytes) -> list[str]:
    return [orjson.loads(line)["trace_id"] for line in ran_out.splitlines()]


def test_ls_shows_runs_newest_first_and_sub_traces_when_asked(tw: Run) -> None:
    assert listed(tw("ls", "-o", "ndjson").out) == ["new-root", "old-2", "old-1"]
    assert listed(tw("ls", "-o", "ndjson", "--children").out) == ["new-root", "new-root-sub", "old-2", "old-1"]
    assert listed(tw("ls", "-o", "ndjson", "--parent", "new-root").out) == ["new-root-sub"]
    assert listed(tw("ls", "-o", "ndjson", "--limit", "2").out) == ["new-root", "old-2"]
    assert orjson.loads(tw("ls", "-o", "json", "--limit", "1").out)[0]["trace_id"] == "new-root"


def test_ls_filters(tw: Run) -> None:
    assert listed(tw("ls", "-o", "ndjson", "--status", "failed").out) == ["old-1"]
    assert listed(tw("ls", "-o", "ndjson", "--agent", "coder").out) == ["old-1"]
    assert listed(tw("ls", "-o", "ndjson", "--agent", "helper", "--children").out) == ["new-root-sub"]
    assert listed(tw("ls", "-o", "ndjson", "-q", "test").out) == ["old-2"]
    ran = tw("ls", "--status", "lost")
    assert (ran.code, ran.out) == (0, b"") and "no trace" in ran.err


def test_the_table_has_a_row_a_trace_whole_and_escaped(tw: Run) -> None:
    head, *rows = tw("ls", "--children").text.splitlines()
    assert head.split() == ["trace", "agent", "age", "took", "msgs", "tokens", "cost", "task"]
    assert [row[0] for row in rows] == ["?", "✓", "✓", "✗"]
    assert "↳ new-root-sub" in rows[1] and "helper" in rows[1]
    assert rows[0].endswith("1,200  $0.50  Big one")
    assert rows[2].split().count("–") == 2  # tokens and cost that nobody knows
    assert rows[3].endswith("Fix the \\x1b[31mlogin")


def test_show(tw: Run) -> None:
    shown = tw("show", "new").text
    for words in ("new-root", "waiting", "◐ Do \\u200bit", "↳ helper", "Really?\\x1b", "❯ user [Do \\u200bit] Go\\x07"):
        assert words in shown
    assert not {"\x1b", "\x07", "\u200b", "\u202e"} & set(shown + tw("show", "old-2").text)
    assert orjson.loads(tw("show", "new", "-o", "json").out)["trace"]["trace_id"] == "new-root"


def test_show_at_an_event(tw: Run) -> None:
    before = orjson.loads(tw("show", "new-root", "--at", "1", "-o", "json").out)
    assert (before["trace"]["last_event_id"], before["trace"]["total_messages"]) == (1, 0)
    shown = tw("show", "new-root", "--at", "1").text
    assert "as of event 1" in shown and "Really?" not in shown
    assert tw("show", "new-root", "--at", "999").code == 2


def test_which_trace(tw: Run, server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def meant(given: str) -> str:
        trace_id: str = orjson.loads(tw("show", given, "-o", "json").out)["trace"]["trace_id"]
        return trace_id

    assert meant("latest") == "new-root"
    assert meant("new") == "new-root"
    assert meant("new-root-") == "new-root-sub"
    monkeypatch.setenv("TRACEWATCH_URL", "http://127.0.0.1:1")
    for path in ("traces/old-1", "api/traces/old-1", "api/traces/old-1/events", "traces/old-1/"):
        url = f"{server.url}/{path}"
        spoken = tw("show", url, "-o", "json")
        assert orjson.loads(spoken.out)["trace"]["trace_id"] == "old-1", url


def test_an_ambiguous_prefix_names_the_candidates(tw: Run) -> None:
    ran = tw("show", "old")
    assert ran.code == 2
    assert "old-1" in ran.err and "old-2" in ran.err and "\x1b" not in ran.err


def test_urls_of_traces() -> None:
    assert parse_url("http://h:1/traces/a%3Ab") == ("http://h:1", "a:b")
    assert parse_url("https://h/prefix/api/traces/a/watch") == ("https://h/prefix", "a")
    for wrong in ("http://h/", "http://h/traces/", "http:///traces/a"):
        with pytest.raises(CliError):
            parse_url(wrong)


def test_an_empty_server_says_so(tmp_path: Path, spawn: Callable[..., Spawned]) -> None:
    with ServerProcess(tmp_path / "log.db") as empty:
        ran = spawn("tail", "latest", url=empty.url).end()
    assert ran.code == 2 and "no trace yet" in ran.err


def test_without_a_trace_one_is_chosen_from_a_list(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("9\n2\n"))
    _, chosen = find_trace(None, server.url, interactive=True)
    assert chosen["trace_id"] == "old-2"
    out, err = capsys.readouterr()
    assert out == ""
    assert "Big one" in err and "Part" not in err and "\x1b" not in err


def test_show_a_message_and_what_its_model_was_asked(tw: Run, server: ServerProcess) -> None:
    request = {"params": {"temperature": 0}, "tools": [{"name": "grep"}], "input": [{"message_id": "u"}, "And\x1b?"]}
    asked = {"role": "user", "content": "Where\x07 is it?", "message_id": "u"}
    answer = {"role": "assistant", "content": "In a.py", "message_id": "a", "model": "m-1", "request": request}
    record(Api(server.url), "asked", *({"event": "message_added", "message": one} for one in (asked, answer)))
    for shown in (tw("show", "asked", "a", "--prompt").text, tw("show", "asked", "--prompt").text):
        head, *lines = shown.splitlines()
        assert head == "a · assistant · m-1"
        assert lines == [
            *("params", '  {"temperature":0}', "tools (1)", '  {"name":"grep"}'),
            *("user", "  Where\\x07 is it?", "item", "  And\\x1b?"),
        ]
    assert tw("show", "asked", "1").text.splitlines() == ["u · user", "Where\\x07 is it?"]
    told = orjson.loads(tw("show", "asked", "2", "--prompt", "-o", "json").out)
    assert told["prompt"]["input"] == [{"role": "user", "content": "Where\x07 is it?"}, "And\x1b?"]
    assert told["message"]["message_id"] == "a"
    for wrong in (("u", "--prompt"), ("9",), ("a", "--at", "1")):
        assert tw("show", "asked", *wrong).code == 2
    assert "does not say what its model was asked" in tw("show", "asked", "u", "--prompt").err
    assert tw("show", "old-1", "--prompt").code == 2
