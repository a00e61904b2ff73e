"""``search``, and ``doctor --reindex``: beside a server, without one, and after a kill -9."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Run, done, record
from tests.support import DEADLINE_S, ServerProcess
from tracewatch.client.api import Api
from tracewatch.log.sqlite.search import index_path


def said(text: str) -> dict[str, object]:
    """A message."""
    return {"event": "message_added", "message": {"role": "assistant", "content": text}}


def soon(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_current(api: Api) -> bool:
    """Whether search has read all."""
    try:
        return bool(api.search("x")["index"]["state"] == "current")
    except Exception:
        return False


def test_search(tw: Run, api: Api) -> None:
    record(api, "found-1", said("the \x1b[31mneedle\x1b[0m is here"), done("failed"), task="Look for it")
    record(api, "found-2", said("a needle"), said("needle again"), task="Look\nagain")
    soon(lambda: is_current(api) and len(api.search("needle")["hits"]) == 3)
    ran = tw("search", "needle")
    lines = ran.text.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert lines[0] == "◐ Look ⏎ again  found-2" and lines[4].endswith("Look for it  found-1")
    assert lines[1].split()[0] == "#2" and lines[1].endswith("assistant  needle again")
    assert "\x1b[31m" not in ran.text
    found = orjson.loads(tw("search", "needle", "status:failed", "--json").out)
    assert [hit["trace_id"] for hit in found["hits"]] == ["found-1"]
    assert [trace["trace_id"] for trace in found["traces"]] == ["found-1"]
    assert len(tw("search", "needle", "-o", "ndjson", "--limit", "2").out.splitlines()) == 2
    assert [orjson.loads(tw("search", "needle", "--json", *args).out)["hits"][0]["trace_id"]
            for args in (("--in", "found-1"), ("--per-trace", "1"))] == ["found-1", "found-2"]  # fmt: skip
    assert orjson.loads(tw("ls", "needle", "status:failed", "-o", "json").out)[0]["trace_id"] == "found-1"
    assert tw("ls", "task:look", "-o", "ndjson").out.count(b"\n") == 2
    refused = tw("ls", "colour:red")
    assert refused.code == 2 and "colour is no field" in refused.err
    nothing = tw("search", '"needle in vain"')
    assert (nothing.code, nothing.out) == (1, b"") and "nothing is found" in nothing.err
    wrong = tw("search", "needle", "colour:red")
    assert wrong.code == 2 and "colour is no field" in wrong.err


def test_the_index_made_anew_by_a_server_and_without_one(tmp_path: Path, tw: Run) -> None:
    db = tmp_path / "log.db"
    server = ServerProcess(db)
    with server:
        api = Api(server.url)
        record(api, "r", *[said(f"needle {n}") for n in range(50)])
        soon(lambda: is_current(api))
        with closing(sqlite3.connect(index_path(db), isolation_level=None, timeout=30)) as index:
            index.execute("INSERT INTO meta VALUES ('marked', '1')")
        ran = tw("doctor", "--reindex", "--db", str(db))
        assert (ran.code, ran.text) == (0, "the search index has 51 texts\n"), ran.err
        with closing(sqlite3.connect(index_path(db))) as index:
            assert index.execute("SELECT 1 FROM meta WHERE key = 'marked'").fetchall() == []
        soon(lambda: is_current(api) and len(api.search("needle", limit=100, per_trace=100)["hits"]) == 50)
    assert orjson.loads(tw("doctor", "--reindex", "--json", "--db", str(db)).out)["texts"] == 51
    index_path(db).write_bytes(b"rubbish" * 1000)
    findings = orjson.loads(tw("doctor", "--json", "--db", str(db)).out)["findings"]
    assert [one["severity"] for one in findings if one["code"] == "search_index"] == ["warning"]
    assert tw("doctor", "--reindex", "--db", str(db)).code == 0
    findings = orjson.loads(tw("doctor", "--full", "--json", "--db", str(db)).out)["findings"]
    assert [one["severity"] for one in findings if one["code"] == "search_index"] == ["ok"]
    assert tw("doctor", "--reindex", "--db", str(tmp_path / "none.db")).code != 0


@pytest.mark.slow
def test_it_goes_on_where_it_stood_after_a_kill(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "log.db").start()
    try:
        for turn in range(4):
            api = Api(server.url)
            record(api, f"r{turn}", *[said(f"needle {n}") for n in range(400)])
            server.kill()  # in the middle of reading
            server.start()
        api = Api(server.url)
        soon(lambda: is_current(api))
        found = api.search("needle", limit=200, per_trace=200)
        every = list(found["hits"])
        while found["next_page_token"]:
            found = api.search("needle", limit=200, per_trace=200, page_token=found["next_page_token"])
            every += found["hits"]
        assert len({(hit["trace_id"], hit["event_id"]) for hit in every}) == len(every) == 1600
    finally:
        server.stop()
