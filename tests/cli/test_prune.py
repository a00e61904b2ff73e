"""``tracewatch prune`` on the file of a running server: its output, the data it deletes, and the news to watchers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import done, record, thought
from tests.server.wire import watching
from tests.support import ServerProcess
from tracewatch.cli import run
from tracewatch.client.api import Api
from tracewatch.model.contents import reference

pytestmark = pytest.mark.anyio
LONG_AGO = "2020-01-02T03:04:05.000Z"


def old_trace(api: Api, trace_id: str) -> None:
    """One that ended years ago, as an import puts it there."""
    header = {"trace_id": trace_id, "task": "Old\x1b[31m", "root_trace_id": trace_id, "created_at": LONG_AGO}
    stored = [
        {"event": "note", "event_id": 1, "trace_id": trace_id, "ts": LONG_AGO},
        {"event": "trace_completed", "event_id": 2, "trace_id": trace_id, "ts": LONG_AGO, "status": "completed"},
    ]
    lines = [{"trace": {**header, "agent_type": "agent", "metadata": {}}}, *stored]
    api.import_lines([json.dumps(line, separators=(",", ":")).encode() for line in lines])


def pruned(capsysbinary: pytest.CaptureFixture[bytes], *args: str) -> tuple[int, bytes, str]:
    """Its exit code, stdout and stderr."""
    return ran_with(capsysbinary, "prune", *args)


def ran_with(capsysbinary: pytest.CaptureFixture[bytes], *args: str) -> tuple[int, bytes, str]:
    """Any command's."""
    capsysbinary.readouterr()
    code = run(args)
    sys.stdout.flush()
    out, err = capsysbinary.readouterr()
    return code, out, err.decode()


async def test_on_a_running_server(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db) as server:
        api = Api(server.url)
        record(api, "long", *[thought(f"thought {n}") for n in range(1200)])
        record(api, "short", thought("one"), done())
        old_trace(api, "old")
        async with (
            watching(server.ws_url, "old", since="latest") as old,
            watching(server.ws_url, "long", since="latest") as long,
        ):
            await old.until("caught_up")
            await long.until("caught_up")

            async def prune(*args: str) -> tuple[int, bytes, str]:
                return await asyncio.to_thread(pruned, capsysbinary, "--db", str(db), *args)

            code, out, _ = await prune("--keep-days", "30", "--keep-events", "100", "--dry-run")
            text = out.decode()
            assert code == 0 and "\x1b" not in text
            assert [line.split()[0] for line in text.splitlines()] == ["old", "long", "would"]
            assert "1 trace deleted, 1 trimmed: 1,002 events" in text and "nothing was changed" in text
            assert api.trace("old")["trace"]["last_event_id"] == 2

            code, out, err = await prune("--keep-days", "30", "--keep-events", "100", "--json")
            answer = json.loads(out)
            assert (code, err, answer["dry_run"]) == (0, "", False)
            assert [(one["trace_id"], one["deleted"], one["events"]) for one in answer["traces"]] == [
                ("old", True, 2),
                ("long", False, 1000),
            ]
            assert answer["totals"]["events"] == 1002 and answer["file"]["gives_space_back"]
            assert [one["trace_id"] for one in api.traces()["traces"]] == ["short", "long"]
            assert api.trace("long")["trace"]["first_event_id"] == 1001

            assert (await old.had("error"))["code"] == "trace_deleted"
            assert await old.closed() == 4504
            await asyncio.to_thread(api.append, "long", [thought("on")])
            (body,) = await long.until_events(1)
            assert json.loads(body)["event_id"] == 1201 and "gap" not in long.names()

            _, out, _ = await prune("--keep-days", "30", "--keep-events", "100")
            assert out.startswith(b"0 traces deleted, 0 trimmed")


def test_what_tail_says_of_it(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with ServerProcess(tmp_path / "log.db") as server:
        record(Api(server.url), "long", *[thought(f"thought {n}") for n in range(1200)])
        assert pruned(capsysbinary, "--db", str(tmp_path / "log.db"), "--keep-events", "100")[0] == 0
        asked = ("tail", "long", "--url", server.url)
        code, out, err = ran_with(capsysbinary, *asked, "-n", "all", "--no-follow")
        assert (code, len(out.splitlines()), err) == (0, 200, "events 1 to 1000 are no longer kept\n")
        code, out, err = ran_with(capsysbinary, *asked, "--after", "7")
        assert (code, out) == (2, b"") and "they are no longer kept" in err and "--after 1000" in err


def test_a_trimmed_trace_is_exported_and_put_back(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    files = [str(tmp_path / name) for name in ("one.ndjson", "two.ndjson")]
    goal = {"event": "goal_added", "goal": {"id": "g", "description": "Goal", "status": "in_progress"}}
    with ServerProcess(tmp_path / "log.db") as server, ServerProcess(tmp_path / "other.db") as other:
        record(Api(server.url), "p", goal)
        for name, media_type in (("kept", "image/png"), ("gone", "text/plain")):
            Api(server.url).put_blob("p", name.encode() * 1000, media_type)
        kept, gone = (reference(name.encode() * 1000, "image/png", name) for name in ("kept", "gone"))
        Api(server.url).append(
            "p", [{"event": "trace_updated", "metadata": {"shot": kept}}, {**thought("see"), "see": gone}]
        )
        Api(server.url).append("p", [thought(f"thought {n}") for n in range(600)])
        record(Api(server.url), "p.sub", thought("sub"), done(), parent_trace_id="p")
        Api(server.url).append("p", [done()])
        code, out, _ = pruned(capsysbinary, "--db", str(tmp_path / "log.db"), "--keep-events", "1")
        assert (code, b" and 4.0 kB beside them" in out) == (0, True), out
        for step in (
            ("export", "p", "-O", files[0], "--url", server.url),
            ("import", files[0], "--url", other.url),
            ("import", files[0], "--url", other.url),  # again: nothing changes
            ("export", "p", "-O", files[1], "--url", other.url),
        ):
            assert ran_with(capsysbinary, *step)[0] == 0
        lines = Path(files[0]).read_bytes().splitlines()
        first, content, begin = map(json.loads, lines[:3])
        assert (first["trace"]["first_event_id"], begin["event_id"]) == (501, 501)
        assert content["blob"]["sha256"] == kept["blob"]
        assert b"".join(Api(other.url).blob("p", kept["blob"])) == b"kept" * 1000
        with closing(sqlite3.connect(tmp_path / "other.db")) as connection:  # it is not taken for one that nobody names
            assert connection.execute("SELECT DISTINCT event_id FROM trace_blobs").fetchall() == [(2**62,)]
        assert Path(files[1]).read_bytes().splitlines() == lines
        own = {"epoch": "", "cursor": "", "ts": ""}
        there, here = (Api(url).trace("p") for url in (server.url, other.url))
        assert {**there, **own} == {**here, **own}


def test_what_it_refuses(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    absent = tmp_path / "absent.db"
    for args, words in (
        (["--db", str(absent), "--keep-days", "3"], "there is no file"),
        (["--db", str(absent), "--keep-days", "x"], "keep_days: 'x' is not a whole number of at least 0"),
        (["--db", __file__], "nothing to go by"),
        (["--db", __file__, "--dry-run", "--vacuum"], "exclude each other"),
    ):
        code, out, err = pruned(capsysbinary, *args)
        assert (code, out) == (2, b"") and words in err, err
    assert not absent.exists()


def test_a_file_from_before_it_could_shrink(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    db = tmp_path / "log.db"
    with ServerProcess(db) as server:
        record(Api(server.url), "long", *[thought("x" * 500) for _ in range(2000)])
        server.stop()
    connection = sqlite3.connect(db)
    connection.executescript("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM")
    connection.close()
    before = db.stat().st_size
    code, _, err = pruned(capsysbinary, "--db", str(db), "--keep-events", "1")
    assert code == 0 and "prune --vacuum" in err
    assert db.stat().st_size >= before
    code, _, err = pruned(capsysbinary, "--db", f"sqlite:///{db}", "--vacuum")  # as `serve` takes it, too
    assert (code, err) == (0, "")
    assert db.stat().st_size < before / 2
