"""Traces out of a server and into one, byte for byte."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cli.conftest import Run, Spawned, done, record, thought
from tests.ingest.langsmith_bodies import MULTIPART, body, ended, run, run_id
from tests.support import ServerProcess
from tracewatch.cli.sending import Pace, StepSender
from tracewatch.client.api import Api
from tracewatch.importers import AppendEvent, CreateTrace, ImportFault, detect
from tracewatch.model.window import BATCH_EVENTS
from tracewatch.server.page import OFFLINE, web_dir

OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """Another server."""
    with ServerProcess(tmp_path / "other.db") as running:
        yield running


def family(api: Api, name: str) -> str:
    record(api, name, thought("Grüße"), metadata={"b": 1, "a": [2]}, agent_type="coder")
    record(api, f"{name}-2", thought("of 2"), parent_trace_id=name)
    record(api, f"{name}-1", parent_trace_id=name)
    record(api, f"{name}-deep", done("failed"), parent_trace_id=f"{name}-2")
    api.append(f"{name}-2", [done()])
    return name


def test_export_import_export_gives_the_same_bytes(tw: Run, api: Api, other: ServerProcess, tmp_path: Path) -> None:
    family(api, "f")
    file = tmp_path / "f.ndjson"
    assert tw("export", "f", "-O", str(file)).code == 0
    assert tw("export", "f").out == file.read_bytes()
    headers = [
        orjson.loads(line)["trace"]["trace_id"] for line in file.read_bytes().splitlines() if b'{"trace":' in line
    ]
    assert headers == ["f", "f-2", "f-deep", "f-1"]

    ran = tw("import", str(file), "--url", other.url)
    events = file.read_bytes().count(b"\n") - 4
    assert (ran.code, ran.text) == (0, f"4 traces, {events} events imported, 0 already there\n")
    assert tw("export", "f", "--url", other.url).out == file.read_bytes()
    again = tw("import", str(file), "--url", other.url)
    assert again.text == f"4 traces, 0 events imported, {events} already there\n"
    assert tw("import", str(file)).text == f"4 traces, 0 events imported, {events} already there\n"
    assert tw("export", "f", "--url", other.url).out == file.read_bytes()
    assert [path.name for path in tmp_path.glob("f*")] == ["f.ndjson"]


def test_a_start_that_was_given_comes_along(tw: Run, api: Api, other: ServerProcess, tmp_path: Path) -> None:
    given, later = "2025-03-01T09:00:00.000Z", "2025-03-01T09:05:00.000Z"
    event = {**thought("hm"), "occurred_at": later}
    record(api, "begun", event, started_at=given)
    record(api, "begun-bare", started_at=given)
    record(api, "begun-set", event, {"event": "trace_updated", "started_at": given})
    record(api, "begun-by-event", event)
    for name, began in (("begun", given), ("begun-bare", given), ("begun-set", given), ("begun-by-event", later)):
        file = tmp_path / f"{name}.ndjson"
        assert tw("export", name, "-O", str(file)).code == 0
        header = orjson.loads(file.read_bytes().splitlines()[0])["trace"]
        assert ("started_at" in header) is (name != "begun-by-event")
        assert tw("import", str(file), "--url", other.url).code == 0
        assert Api(other.url).trace(name)["trace"]["started_at"] == began
        assert tw("export", name, "--url", other.url).out == file.read_bytes()


def test_without_children_and_from_stdin(
    tw: Run, api: Api, spawn: Callable[..., Spawned], other: ServerProcess
) -> None:
    family(api, "g")
    out = tw("export", "g", "--no-children").out
    assert out.count(b'{"trace":') == 1
    ran = spawn("import", "-", url=other.url).end(out)
    assert ran.code == 0 and ran.text.startswith("1 trace, ")
    assert tw("export", "g", "--no-children", "--url", other.url).out == out


def session_line(number: int, kind: str, content: Any, **fields: Any) -> bytes:
    message: dict[str, Any] = {"role": kind, "content": content}
    if kind == "assistant":
        message |= {"id": f"a{number}", "usage": {"input_tokens": 10, "output_tokens": 5}}
    row = {
        "type": kind,
        "uuid": f"u{number}",
        "sessionId": "grown",
        "timestamp": f"2026-03-01T09:00:0{number}.000Z",
        "message": message,
    }
    return orjson.dumps(row | fields) + b"\n"


def test_a_session_that_has_grown_goes_on_in_its_trace(tw: Run, api: Api, tmp_path: Path) -> None:
    """Also one of which an earlier import had no question yet, and had ended a sub-agent that was at work."""
    agent = [{"type": "tool_use", "id": "c1", "name": "Task", "input": {"prompt": "Look"}}]
    result = [{"type": "tool_result", "tool_use_id": "c1", "content": "seen"}]
    rows = [
        session_line(1, "user", "<local-command-stdout>x</local-command-stdout>"),
        session_line(2, "user", "Check it"),
        session_line(3, "assistant", agent),
        session_line(4, "user", result),
        session_line(5, "assistant", [{"type": "text", "text": "Done."}]),
    ]
    file, seen = tmp_path / "s.jsonl", []
    for count in (1, 3, 4, 5):
        file.write_bytes(b"".join(rows[:count]))
        assert tw("import", str(file)).code == 0
        again = tw("import", str(file))
        assert (again.code, "0 events imported" in again.text) == (0, True), again.text
        trace = api.trace("cc-grown")["trace"]
        seen.append((trace["status"], trace["total_messages"], trace["ended_at"][17:19]))
    assert seen == [("stopped", 1, "01"), ("stopped", 3, "03"), ("stopped", 3, "04"), ("completed", 4, "05")]
    child = api.trace("cc-grown-c1")["trace"]
    assert (child["status"], child["summary"], child["total_messages"]) == ("completed", "seen", 2)
    (sub,) = api.trace("cc-grown")["sub_traces"]
    assert (sub["status"], sub["summary"]) == ("completed", "seen")
    assert (trace["task"], trace["started_at"][17:19], trace["total_tokens"]) == ("Check it", "01", 30)
    tool = api.messages("cc-grown")["messages"][2]
    assert (tool["content"]["result"], tool["ended_at"][17:19], "no_result" in tool) == ("seen", "04", False)
    file.write_bytes(b"".join(rows[:3]))  # an older copy changes nothing
    assert "0 events imported" in tw("import", str(file)).text
    assert api.trace("cc-grown")["trace"]["status"] == "completed"


def test_lines_of_one_session_are_one_trace_whatever_files_they_are_in(tw: Run, api: Api, tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    for number, events in (("1", 2), ("2", 3), ("1", 0)):
        file.write_bytes(session_line(int(number), "user", f"I am {number}", sessionId="twice"))
        ran = tw("import", str(file))
        assert (ran.code, f"{events} events imported" in ran.text) == (0, True), ran.text
    assert api.trace("cc-twice")["trace"]["task"] == "I am 1"
    assert [m["content"] for m in api.messages("cc-twice")["messages"]] == ["I am 1", "I am 2"]


def test_a_trace_that_differs_is_a_fault_and_the_rest_is_imported(tw: Run, api: Api, tmp_path: Path) -> None:
    record(api, "one", thought("here"))
    record(api, "two", thought("two"))
    file = tmp_path / "both.ndjson"
    file.write_bytes(
        tw("export", "one").out.replace(b"here", b"there")
        + tw("export", "two").out.replace(b'"two"', b'"three"').replace(b'trace_id":"two', b'trace_id":"three')
    )
    ran = tw("import", str(file))
    assert ran.code == 1
    assert "trace one" in ran.err
    assert "1 fault" in ran.text
    assert api.trace("three")["trace"]["last_event_id"] == 1


def test_faults_name_file_line_and_field_and_the_rest_goes_on(tw: Run, api: Api, tmp_path: Path) -> None:
    good, bad, absent = tmp_path / "good.json", tmp_path / "bad.ndjson", tmp_path / "absent"
    good.write_bytes(orjson.dumps(OPENAI))
    bad.write_bytes(b'{"trace":{"trace_id":"b","task":"t"}}\n{"event":"x"}\n')
    ran = tw("import", str(bad), str(absent), str(good))
    assert ran.code == 1
    assert f"{bad}:2: " in ran.err
    assert str(absent) in ran.err
    *files, total = ran.text.splitlines()
    assert files[-1].startswith(f"{good}: 1 trace, ")
    assert total.endswith(" faults")


def test_a_foreign_file_twice_changes_nothing(tw: Run, api: Api, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_bytes(orjson.dumps([*OPENAI, {"role": "user", "content": "Again"}]))
    first = tw("import", str(file))
    assert first.code == 0 and " 0 already there" in first.text
    again = tw("import", str(file), "--format", "openai")
    assert again.code == 0 and " 0 events imported" in again.text


def test_unreachable_is_69_before_anything_is_read(tw: Run) -> None:
    assert tw("import", "/no/such/file", "--url", "http://127.0.0.1:9").code == 69


# --- sending ---------------------------------------------------------------------------------------------------


def sent(api: Api, *steps: Any, pace: Pace | None = None) -> tuple[StepSender, list[ImportFault]]:
    faults: list[ImportFault] = []
    sender = StepSender(api, pace or Pace(None), faults.append)
    for step in steps:
        sender.take(step)
    sender.flush()
    return sender, faults


def test_an_event_that_is_refused_is_mended_or_leaves_a_mark_and_a_repeat_is_still_harmless(api: Api) -> None:
    steps = [
        CreateTrace({"trace_id": "refused", "task": "t"}),
        AppendEvent("refused", thought("one")),
        AppendEvent("refused", {"event": "message_updated", "message_id": "nosuch", "append": "x"}),
        AppendEvent("refused", {"event": "goal_added", "goal": {"description": 7}}),
        AppendEvent("refused", {"event": "huge", "text": "x" * 300_000}),
        AppendEvent("refused", thought("two")),
    ]
    sender, faults = sent(api, *steps)
    assert [fault.field for fault in faults] == [None, "goal.description", None]
    stored = [orjson.loads(body)["event"] for body in api.events("refused")]
    assert stored == ["thought", "message_added", "goal_added", "import_refused", "thought"]
    assert (sender.counts.events, sender.counts.faults) == (5, 3)
    before = list(api.events("refused"))
    again, _ = sent(api, *steps)
    assert (again.counts.events, again.counts.duplicates) == (0, 5)
    assert list(api.events("refused")) == before


class CountingApi(Api):
    """Counts the appends, and loses a trace when told to."""

    appends = 0
    loses: str | None = None

    def append(self, trace_id: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        self.appends += 1
        if trace_id == self.loses:
            self.delete(trace_id)
        return super().append(trace_id, *arguments, **options)


def test_an_event_that_is_refused_among_many_is_found_in_halves(api: Api) -> None:
    counting = CountingApi(api.url)
    events: list[Any] = [AppendEvent("halves", thought(str(n))) for n in range(BATCH_EVENTS)]
    events[300] = AppendEvent("halves", {"event": "goal_updated", "goal_id": "none", "patch": {"summary": "s"}})
    sender, faults = sent(counting, CreateTrace({"trace_id": "halves", "task": "t"}), *events)
    assert ["there is no goal 'none'" in str(fault) for fault in faults] == [True]
    assert (sender.counts.events, sender.counts.faults) == (BATCH_EVENTS, 1)
    refused = orjson.loads(list(api.events("halves"))[300])
    assert (refused["event"], refused["refused"]) == ("import_refused", events[300].event)
    assert counting.appends < 30


def test_a_trace_that_is_gone_meanwhile_is_given_up_alone(api: Api) -> None:
    counting = CountingApi(api.url)
    counting.loses = "gone"
    made = [CreateTrace({"trace_id": one, "task": "t"}) for one in ("gone", "there")]
    sender, faults = sent(counting, *made, AppendEvent("gone", thought("a")), AppendEvent("there", thought("b")))
    assert [fault.message.endswith("the events of trace gone are left out") for fault in faults] == [True]
    assert (sender.counts.events, counting.appends) == (1, 2)


def test_the_order_between_traces_stays_and_batches_are_bounded(api: Api) -> None:
    goal = {"event": "goal_added", "goal": {"id": "g", "description": "d"}}
    many = [AppendEvent("order", thought(str(n))) for n in range(BATCH_EVENTS + 1)]
    sender, faults = sent(
        api,
        CreateTrace({"trace_id": "order", "task": "t"}),
        *many,
        AppendEvent("order", goal),
        CreateTrace({"trace_id": "order-sub", "task": "t", "parent_trace_id": "order", "parent_goal_id": "g"}),
        AppendEvent("order-sub", done()),
        AppendEvent("order", done()),
    )
    assert not faults
    assert sender.counts.events == BATCH_EVENTS + 4
    assert [orjson.loads(body)["event"] for body in api.events("order")][-4:] == [
        *("goal_added", "sub_trace_started", "sub_trace_completed", "trace_completed")
    ]


def test_a_conflicting_trace_is_given_up_alone(api: Api) -> None:
    record(api, "taken", task="something else")
    sender, faults = sent(
        api,
        CreateTrace({"trace_id": "taken", "task": "t"}),
        AppendEvent("taken", thought("lost")),
        CreateTrace({"trace_id": "free", "task": "t"}),
        AppendEvent("free", thought("kept")),
    )
    assert len(faults) == 1 and "taken" in faults[0].message
    assert (sender.counts.traces, sender.counts.events) == (1, 1)
    assert api.trace("taken")["trace"]["last_event_id"] == 0


def test_pace_follows_the_runs_own_times(api: Api) -> None:
    slept: list[float] = []
    at = "2026-11-20T08:00:{:02d}.000Z"
    times = [10, 14, 12, 15]  # clocks go back; nobody waits for that, nor twice
    sent(
        api,
        CreateTrace({"trace_id": "pace", "task": "t"}),
        *(AppendEvent("pace", {**thought("x"), "occurred_at": at.format(n)}) for n in times),
        *(
            AppendEvent("pace", {"event": "message_added", "message": {"role": "user", "content": "x"}})
            for _ in range(2)
        ),
        pace=Pace(2.0, slept.append),
    )
    assert slept == [2.0, 0.5, 0.5, 0.5]


def test_export_as_a_page_holds_the_same_events(tw: Run, api: Api, tmp_path: Path) -> None:
    if not (web_dir() / OFFLINE).is_file():
        pytest.skip("the viewer is not built: python web/node.py build")
    api.create_trace({"trace_id": "page", "task": "</script><!-- odd -->"})
    api.append("page", [{"event": "thought", "text": "<b>hm</b> </script>"}])
    file = tmp_path / "run.html"
    assert tw("export", "page", "--html", "-O", str(file)).code == 0
    before, _, rest = file.read_text().partition('id="tracewatch-export">')
    lines, _, after = rest.partition("</script>")
    first, *events = [orjson.loads(line) for line in lines.splitlines()]
    assert first["trace"]["task"] == first["snapshot"]["trace"]["task"] == "</script><!-- odd -->"
    assert events == [orjson.loads(line) for line in api.events("page")]
    assert "Content-Security-Policy" in before
    assert '<script type="module">' in after


def span(number: int, parent: int | None, name: str, **attributes: str) -> dict[str, Any]:
    at = 1_772_355_600_000_000_000 + number * 1_000_000_000
    return {
        "traceId": f"{7:032x}",
        "spanId": f"{number:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}",
        "name": name,
        "startTimeUnixNano": str(at),
        "endTimeUnixNano": str(at + 500_000_000),
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
    }


def test_runs_of_langsmith_go_to_the_mapping_of_the_server(tw: Run, api: Api, tmp_path: Path) -> None:
    began = run("exported", inputs={"messages": [["user", "Why?"]]})
    tool = ended(run("look", "tool", "exported"), outputs={"output": "so"})
    whole = ended(began, outputs={"output": "So."}, child_runs=[tool, {"x": 1}])
    path = tmp_path / "runs.json"
    forms: list[Any] = [[whole], {"runs": [whole]}, whole]
    for number, form in enumerate(forms):
        path.write_bytes(orjson.dumps(form))
        assert detect(path) == "langsmith"
        done = tw("import", str(path))
        assert (done.code, done.out) == (0, b"1 trace, 2 items given to the server\n"), number
    trace = api.trace(f"ls-{run_id('exported')}")["trace"]
    assert (trace["status"], trace["summary"], trace["total_messages"]) == ("completed", "So.", 1)
    path.write_bytes(orjson.dumps(whole) + b"\n" + orjson.dumps({"id": "x", "run_type": "llm"}) + b"\n")
    done = tw("import", str(path))
    assert done.code == 1
    assert "runs.json:2: a run has an id" in done.err
    assert api.trace(f"ls-{run_id('exported')}")["trace"]["last_event_id"] == trace["last_event_id"]


def test_requests_that_langsmiths_client_could_not_send(tw: Run, api: Api, tmp_path: Path) -> None:
    raw = zlib.compress(body([ended(run("not sent"), outputs={"output": "So."})]))
    sent = {"Content-Type": MULTIPART["content-type"], "Content-Encoding": "deflate", "x-api-key": "secret"}
    dump = {"version": 1, "endpoint": "runs/multipart", "headers": sent, "body_base64": base64.b64encode(raw).decode()}
    path = tmp_path / "trace_1796012748.570000_0a1b2c3d.json"
    path.write_bytes(orjson.dumps(dump))
    assert detect(path) == "langsmith"
    done = tw("import", str(path))
    assert (done.code, done.out) == (0, b"1 trace, 1 item given to the server\n")
    assert api.trace(f"ls-{run_id('not sent')}")["trace"]["status"] == "completed"
    for wrong, said in (({"body_base64": "?"}, "body_base64"), ({"endpoint": "elsewhere"}, "endpoint")):
        path.write_bytes(orjson.dumps(dump | wrong))
        done = tw("import", str(path))
        assert done.code == 1
        assert said in done.err


def test_what_opentelemetry_wrote_to_a_file_goes_to_the_mapping_of_the_server(
    tw: Run, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracewatch.importers.otlp_dump._PART", 2)
    spans = [span(1, None, "invoke_agent a", **{"gen_ai.operation.name": "invoke_agent"})]
    spans += [span(n, 1, "execute_tool t", **{"gen_ai.operation.name": "execute_tool"}) for n in (2, 3, 4)]
    requests = [{"resourceSpans": [{"scopeSpans": [{"spans": some}]}]} for some in (spans[:1], spans[1:])]
    path = tmp_path / "spans.jsonl"
    path.write_bytes(b"".join(orjson.dumps(request) + b"\n" for request in [*requests, {"resourceMetrics": []}]))
    assert detect(path) == "otlp"
    done = tw("import", str(path))
    assert (done.code, done.out) == (0, b"1 trace, 4 items given to the server\n")
    trace = api.trace(f"otel-{7:032x}")["trace"]
    assert (trace["status"], trace["total_messages"]) == ("completed", 3)
    events = trace["last_event_id"]
    path.write_bytes(
        orjson.dumps([*requests, {"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}, {"x": 1}], option=2)
    )
    done = tw("import", str(path))
    assert done.code == 1
    assert "without a trace id" in done.err
    assert "[3]: a request of OTLP has resourceSpans" in done.err
    assert api.trace(f"otel-{7:032x}")["trace"]["last_event_id"] == events
