"""Big and binary content at the command line: listed, saved, and taken along to another server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cli.conftest import Run, done, record
from tests.support import ServerProcess
from tracewatch.client.api import Api
from tracewatch.model.contents import reference

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 12_000  # over several lines of an export
TEXT = "a line\n" * 100_000


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ServerProcess]:
    """Another server."""
    with ServerProcess(tmp_path / "other.db") as running:
        yield running


def family(api: Api, name: str) -> None:
    """A run with a picture that its sub-run has as well, and a long text."""
    record(api, name)
    record(api, f"{name}-sub", parent_trace_id=name)
    picture = reference(PNG, "image/png", "image/png, 2.9 MiB", name="shot.png")
    text = reference(TEXT.encode(), "text/plain", "a line")
    for trace_id in (name, f"{name}-sub"):
        api.put_blob(trace_id, PNG, "image/png")
        api.append(trace_id, [{"event": "shot", "see": [picture]}, {"event": "again", "see": picture}])
    api.put_blob(name, TEXT.encode(), "text/plain")
    api.append(name, [{"event": "message_added", "message": {"role": "user", "content": text}}])


def test_an_export_takes_contents_along(tw: Run, api: Api, other: ServerProcess, tmp_path: Path) -> None:
    family(api, "f")
    file = tmp_path / "f.ndjson"
    assert tw("export", "f", "-O", str(file)).code == 0
    lines = file.read_bytes().splitlines()
    assert max(map(len, lines)) < 1_100_000
    whole = [orjson.loads(line)["blob"] for line in lines if line.startswith(b'{"blob":')]
    assert {part["sha256"] for part in whole} == {hashlib.sha256(body).hexdigest() for body in (PNG, TEXT.encode())}
    ran = tw("import", str(file), "--url", other.url)
    assert (ran.code, ran.err) == (0, "")
    assert tw("export", "f", "--url", other.url).out == file.read_bytes()
    assert tw("import", str(file), "--url", other.url).code == 0
    got = tw("blob", "f-sub", "shot.png", "--url", other.url)
    assert got.out == PNG


def test_what_is_damaged_is_refused(tw: Run, api: Api, other: ServerProcess, tmp_path: Path) -> None:
    family(api, "d")
    lines = tw("export", "d", "--no-children").out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(b'{"blob":'))
    part = orjson.loads(lines[at])

    def imported(*changed: bytes) -> Any:
        file = tmp_path / "d.ndjson"
        file.write_bytes(b"\n".join([*lines[:at], *changed, *lines[at + 1 :]]))
        return tw("import", str(file), "--url", other.url)

    other_data = base64.b64encode(bytes(len(base64.b64decode(part["blob"]["data"])))).decode()
    for blob in ({**part["blob"], "data": "#"}, {**part["blob"], "data": other_data}, {**part["blob"], "offset": 7}):
        ran = imported(orjson.dumps({"blob": blob}))
        assert ran.code == 1 and "blob" in ran.err
    ran = imported()  # without its first line
    assert ran.code == 1 and "offset" in ran.err
    assert imported(lines[at]).code == 0


def test_the_api_takes_small_contents_as_lines(tw: Run, api: Api, other: ServerProcess) -> None:
    record(api, "s")
    api.put_blob("s", b"small", "text/plain")
    api.append("s", [{"event": "note", "see": reference(b"small", "text/plain", "small")}])
    target = Api(other.url)
    lines = tw("export", "s").out.splitlines()
    assert target.import_lines(lines)["last_event_id"] == 1
    assert b"".join(target.blob("s", hashlib.sha256(b"small").hexdigest())) == b"small"


def test_contents_are_listed_and_saved(tw: Run, api: Api, tmp_path: Path) -> None:
    family(api, "l")
    listed = tw("blob", "l").text.splitlines()
    names = [hashlib.sha256(body).hexdigest() for body in (PNG, TEXT.encode())]
    assert [line.split() for line in listed] == [
        [names[0][:12], "image/png", "2.9", "MiB", "shot.png"],
        [names[1][:12], "text/plain", "683.6", "KiB", "a", "line"],
    ]
    assert tw("blob", "l", names[1][:8]).text == TEXT
    assert tw("blob", "l", names[0], "-O", str(tmp_path / "a.png")).code == 0
    assert (tmp_path / "a.png").read_bytes() == PNG
    assert tw("blob", "l", "shot.png", "-O", str(tmp_path)).code == 0
    assert (tmp_path / "shot.png").read_bytes() == PNG
    again = tw("blob", "l", "shot.png", "-O", str(tmp_path))
    assert again.code == 2 and "there already" in again.err
    assert tw("blob", "l", "nothing").code == 2
    assert tw("blob", "l", "-O", "x").code == 2
    assert not list(tmp_path.glob("*.part"))


def test_previews_stand_in_lines(tw: Run, api: Api) -> None:
    family(api, "p")
    api.append("p", [done()])
    told = tw("tail", "p").text
    assert "image/png, 2.9 MiB" in told and hashlib.sha256(PNG).hexdigest() not in told
    assert "❯ user a line" in tw("show", "p").text
