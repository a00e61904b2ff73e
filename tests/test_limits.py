"""The table of limits in docs/protocol.md: each value is that of the code, and no setting is left out."""

from __future__ import annotations

import re
from pathlib import Path

from tracewatch import errors
from tracewatch.model import blobs, canonical, fit, payloads, rules
from tracewatch.model.events import validate_event
from tracewatch.server import answers, http, record, socket, uvicorn
from tracewatch.settings import Settings, markdown_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"
FIXED: dict[str, str] = {
    "text of a message": f"{rules.MAX_MESSAGE_TEXT:,} characters",
    "a blob": f"{blobs.MAX_BLOB_BYTES // 1024**2} MiB",
    "levels of JSON": f"{canonical.MAX_DEPTH}",
    "depth of goals": f"{canonical.MAX_GOAL_DEPTH}",
    "depth of sub-traces": f"{canonical.MAX_SUB_TRACE_DEPTH}",
    "id or name": f"{fit.NAME_CHARS} characters",
    "task": f"{fit.TASK_CHARS:,} characters",
    "a sum in an import": f"{canonical.MAX_TOTAL:,}",
    "check of an answer": f"{answers.MAX_CHECKS:,} steps",
    "items of one page (limit)": f"{http.MAX_LIMIT:,}",
    "traces open on a record socket": f"{record.OPEN_TRACES:,}",
    "messages in flight on a record socket": f"{record.IN_FLIGHT}",
    "bytes of appends in flight on it": f"{record.HELD_MESSAGES} × max_ws_record_bytes",
    "head of a request": f"{socket.MAX_HEAD_BYTES // 1024} KiB",
    "headers of a request": f"{uvicorn.MAX_HEADERS}",
    f"fragments below {socket.FRAGMENT_BYTES} bytes in a message": f"{socket.SMALL_FRAGMENTS}",
    f"small messages before a pause of {socket.REST_S * 1000:g} ms": f"{socket.SMALL_TALK}",
}


def table() -> dict[str, list[str]]:
    """The rows, by the first cell, without code style."""
    text = re.search(r"^### Limits$(.*?)^###", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert text is not None
    rows = [line.strip("|").split(" | ") for line in text[1].splitlines() if line.startswith("|") and "---" not in line]
    cells = [[cell.replace("`", "").strip() for cell in row] for row in rows]
    assert all(len(row) == 4 and all(row[:3]) for row in cells), "name, value, code, how it is met"
    return {row[0]: row[1:] for row in cells}


def test_each_fixed_limit_has_the_code_s_value() -> None:
    found = table()
    assert {name: found.get(name, [""])[0] for name in FIXED} == FIXED


def defaults() -> dict[str, str]:
    """The settings' defaults, as docs/operating.md has them, with commas."""
    rows = re.findall(r"^\| `TRACEWATCH_(\w+)` \| `?([^`|]*?)`? \|", markdown_table(), re.MULTILINE)
    return {name.lower(): f"{int(value):,}" if value.isdigit() else value for name, value in rows}


def test_each_setting_has_its_default() -> None:
    found, known = table(), defaults()
    assert {name: row[0] for name, row in found.items() if name in known} == {
        name: value for name, value in known.items() if name in found
    }
    assert {name for name in known if name.startswith(("max_", "page_", "auth_"))} <= found.keys()


def test_every_code_is_one_that_there_is() -> None:
    codes = {one.code for one in tree(errors.TracewatchError)}
    named = {code for row in table().values() for code in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\btimeout\b", row[1])}
    assert named - codes <= {"fell_behind", "recorder_dropped", "watcher_share"}


def tree(error: type[errors.TracewatchError]) -> list[type[errors.TracewatchError]]:
    """An error and all below it."""
    return [error, *(one for below in error.__subclasses__() for one in tree(below))]


def test_what_a_message_may_count() -> None:
    most = int(table()["tokens, cost of a message"][0].replace(",", ""))
    for name in ("tokens", "cost"):
        for value, taken in ((most, True), (most + 1, False)):
            message = {"role": "user", "content": "x", name: value}
            try:
                validate_event({"event": "message_added", "message": message})
            except errors.Invalid:
                assert not taken
            else:
                assert taken
    assert payloads.TRACE_ID.fullmatch("x" * 128) and not payloads.TRACE_ID.fullmatch("x" * 129)
    assert table()["trace_id"][0] == "128 characters"
    assert Settings().max_event_bytes > fit.EVENT_BYTES
