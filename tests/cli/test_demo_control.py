"""The demo's agent asks and can be stopped: driven end to end by the command line alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Spawned, wait_until
from tests.cli.test_demo import listening

Spawn = Callable[..., Spawned]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of two folders."""
    for name, files in (("many", 3), ("few", 1)):
        (tmp_path / "project" / name).mkdir(parents=True)
        for number in range(files):
            (tmp_path / "project" / name / f"m{number}.py").write_text('"""A module."""\n' * (number + 1))
    return tmp_path / "project"


@pytest.fixture
def demo(spawn: Spawn, folder: Path, tmp_path: Path) -> Callable[..., tuple[Spawned, str]]:
    """The demo and its address."""

    def begin(*args: str) -> tuple[Spawned, str]:
        started = spawn("demo", str(folder), "--port", "0", *args, TMPDIR=str(tmp_path), TRACEWATCH_URL="")
        return started, listening(started, out=True)

    return begin


def until_there(spawn: Spawn, url: str) -> None:
    """The run has begun."""
    wait_until(lambda: spawn("ls", "-o", "ndjson", url=url).end().out)


def test_a_question_is_waited_for_listed_and_answered(
    spawn: Spawn, demo: Callable[..., tuple[Spawned, str]], tmp_path: Path
) -> None:
    running, url = demo("--ask", "--speed", "300", "--db", str(tmp_path / "kept.db"))
    until_there(spawn, url)
    waiting = spawn("tail", "latest", "--until-waiting", "-n", "all", url=url).end()
    assert waiting.code == 4 and "? question" in waiting.text and "[many, few, all of it]" in waiting.text
    (asked,) = orjson.loads(spawn("inputs", "-o", "json", url=url).end().out)
    assert asked["question"] == "Which folder shall I look at more closely?" and asked["expires_at"]
    refused = spawn("answer", "latest", "elsewhere", url=url).end()
    assert refused.code == 2 and "it wants many / few / all of it" in refused.err
    assert spawn("answer", "latest", "few", "--by", "ann", url=url).end().code == 0
    assert "completed in" in running.end().text

    server = spawn("serve", "--port", "0", "--db", str(tmp_path / "kept.db"), url="")
    kept = listening(server, out=False)
    told = spawn("tail", "latest", "-n", "all", "--children", "--no-follow", url=kept).end().text
    assert "few (by ann)" in told and "few/m0.py" in told and "Read many/" not in told
    assert spawn("inputs", "-o", "json", url=kept).end().out.strip() == b"[]"


@pytest.mark.parametrize("when", ["while it works", "while it asks"])
def test_it_is_cancelled_from_outside(
    spawn: Spawn, demo: Callable[..., tuple[Spawned, str]], tmp_path: Path, when: str
) -> None:
    asks = when == "while it asks"
    running, url = demo(*(["--ask", "--speed", "300"] if asks else ["--speed", "5"]), "--db", str(tmp_path / "kept.db"))
    until_there(spawn, url)
    if asks:
        assert spawn("tail", "latest", "--until-waiting", url=url).end().code == 4
    stopped = spawn("cancel", "latest", "--reason", "seen enough", "--by", "ann", "--wait", url=url).end()
    assert stopped.code == 0 and stopped.text.splitlines()[-1].endswith(" stopped")
    ran = running.end()
    assert (ran.code, ran.err) == (0, "")
    assert "stopped in" in ran.text

    server = spawn("serve", "--port", "0", "--db", str(tmp_path / "kept.db"), url="")
    shown = spawn("ls", "-o", "json", "--children", url=listening(server, out=False)).end()
    traces = orjson.loads(shown.out)
    assert {trace["status"] for trace in traces} == {"stopped"}
    assert {trace["summary"] for trace in traces} == {"cancelled by ann: seen enough"}
