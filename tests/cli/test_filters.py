"""``ls`` with filters and orders: by tag, session, user, model and error, and by when runs were."""

from __future__ import annotations

from tests.cli.conftest import Run, done, record
from tests.cli.test_listing import listed
from tracewatch.client.api import Api


def test_ls_of_what_belongs_together(tw: Run, api: Api) -> None:
    error = {"type": "TimeoutError", "message": "10 s passed"}
    said = {"event": "message_added", "message": {"role": "assistant", "content": "", "model": "m-7"}}
    old = {**said, "occurred_at": "2025-01-01T00:00:00Z"}
    spec = {"task": "t", "session_id": "s-7"}
    record(api, "kin-1", said, **spec, tags=["nightly", "eu"], user_id="ann")
    record(api, "kin-2", {**done("failed"), "error": error}, **spec, tags=["nightly"])
    record(api, "kin-3", old, {**done(), "occurred_at": "2025-01-01T00:01:00Z"}, **spec)  # imported last

    def found(*options: str) -> list[str]:
        return listed(tw("ls", "-o", "ndjson", *options).out)

    assert found("--tag", "nightly") == ["kin-2", "kin-1"]
    assert found("--tag", "nightly", "--tag", "eu") == ["kin-1"]
    assert found("--session", "s-7") == ["kin-2", "kin-1", "kin-3"]
    assert found("--session", "s-7", "--order", "activity") == ["kin-2", "kin-1", "kin-3"]
    assert found("--user", "ann", "--model", "m-7") == ["kin-1"]
    assert found("--error") == found("--error", "timeouterror: 10") == ["kin-2"]
    assert found("--error", "nothing") == []
    assert listed(tw("ls", "-o", "ndjson").out)[-1] == "kin-3", "at last year's place"
    rows = tw("ls", "--session", "s-7").text.splitlines()
    assert rows[1].endswith("t  #nightly  ✗ TimeoutError: 10 s passed")
    assert " 1m 00s " in rows[3], rows
