"""What a token of one trace covers, in every order of creating, importing, deleting and creating again.

A trace is below the one that was there as its parent when it came. One that came before its parent is below nothing,
until a client that may see every trace puts the parent there.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.server.wire import Watch, append, bearer, http, make_trace, refused, socket
from tests.support import DEADLINE_S, Serving, run_checked, serving
from tracewatch.log import EventLog
from tracewatch.log.sqlite import doctor

pytestmark = pytest.mark.anyio
AT = "2026-11-20T08:00:00.000Z"
IDS = ("a", "p", "f", "g")  # the tokens are for "a" and for "p"
STEPS = 8
EXAMPLES = 40 if os.environ.get("CI") else 25


def export(trace_id: str, parent_id: str | None, root_id: str, *more: dict[str, Any]) -> bytes:
    """An export with one message, and ``more`` events."""
    above = {"parent_trace_id": parent_id, "root_trace_id": root_id}
    header = {"trace_id": trace_id, "task": "x", "agent_type": "a", "created_at": AT, **above}
    message = {"message_id": "m", "sequence": 1, "role": "user", "content": "secret", "goal_id": None}
    shown = {"description": "secret", "status": "complete"}
    events = [{"event": "message_added", "message": {**message, **shown}, "affected_goals": []}, *more]
    stored = [
        {"event": one["event"], "event_id": n, "trace_id": trace_id, "ts": AT, **one} for n, one in enumerate(events, 1)
    ]
    return b"\n".join(orjson.dumps(one) for one in ({"trace": header}, *stored))


@dataclass
class Known:
    """A trace of the model."""

    parent: str | None
    root: str
    below: bool  # its parent
    messages: int
    moved: bool = False
    cover: Known | None = None  # of one that was moved: what was its parent when it came


@dataclass
class Model:
    """The rule in its plainest form."""

    traces: dict[str, Known] = field(default_factory=dict)

    def above(self, trace_id: str) -> Iterator[str]:
        yield trace_id
        while (known := self.traces.get(trace_id)) is not None and known.below and known.parent is not None:
            trace_id = known.parent
            yield trace_id

    def covering(self, trace_id: str) -> Iterator[str]:
        name: str | None = trace_id
        while name is not None:
            yield name
            known = self.traces.get(name)
            if known is not None and known.moved:  # it may have been deleted, and another one made of that name
                name = next((one for one, there in self.traces.items() if there is known.cover), None)
            else:
                name = known.parent if known is not None and known.below else None

    def covers(self, token: str | None, trace_id: str) -> bool:
        return token is None or token in self.covering(trace_id)

    def seen(self, token: str) -> set[str]:
        return {one for one in self.traces if self.covers(token, one)}

    def under(self, trace_id: str) -> set[str]:
        return {one for one in self.traces if trace_id in self.above(one)}

    def move(self, trace_id: str, parent: str) -> None:
        known = self.traces[trace_id]
        if known.below and known.parent == parent:
            return
        if not known.moved:
            known.cover = self.traces[known.parent] if known.below and known.parent in self.traces else None
        known.moved, known.below, known.parent = True, True, parent
        for one in self.under(trace_id):
            self.traces[one].root = self.traces[parent].root

    def root_of(self, trace_id: str) -> str:
        return self.traces[trace_id].root if trace_id in self.traces else trace_id

    def add(self, token: str | None, trace_id: str, parent: str | None, *, root: str | None) -> None:
        """Something was added that was not there; ``root``: that of an import's header."""
        if root is None:
            assert parent is None or parent in self.traces
        if token is not None:
            assert trace_id == token if parent is None else self.covers(token, parent)
        known = Known(parent, root or self.root_of(parent or trace_id), False, 0 if root is None else 1)
        known.below = parent in self.traces or (parent is not None and parent == token)
        self.traces[trace_id] = known
        for one in self.traces.values() if token is None else ():
            one.below = one.below or one.parent == trace_id


Step = tuple[str, str | None, str, str | None]
steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "create", "import", "import", "delete", "move", "move"]),
        st.sampled_from([None, "a", "p"]),  # whose token
        st.sampled_from(IDS),
        st.sampled_from([None, *IDS]),  # the parent
    ),
    min_size=1,
    max_size=STEPS,
)
numbers = itertools.count()


async def take(client: httpx.AsyncClient, step: Step, name: str, tokens: dict[str | None, str], model: Model) -> None:
    """Take a step. What it did, and whether it might, is compared with the model."""
    what, token, trace_id, parent = step
    headers, above = bearer(tokens[token]), None if parent is None else name + parent
    before = set(model.traces)
    if what == "delete":
        answer = await client.delete(f"/api/traces/{name}{trace_id}", headers=headers)
        gone = {one[len(name) :] for one in answer.json()["deleted"]} if answer.status_code == 200 else set()
        here = trace_id in before and model.covers(token, trace_id)
        assert gone == (model.under(trace_id) if here else set())
        for one in gone:
            del model.traces[one]
        return
    if what == "move":
        raw = {"event": "trace_parent_changed", "parent_trace_id": above}
        answer = await client.post(f"/api/traces/{name}{trace_id}/events", json=raw, headers=headers)
        there = {trace_id, parent} <= before and model.covers(token, trace_id) and model.covers(token, parent or "")
        assert (answer.status_code == 200) == (there and trace_id not in model.above(parent or "")), answer.text
        if answer.status_code == 200:
            model.move(trace_id, parent or "")
        return
    root = None
    if what == "create":
        spec = {"trace_id": name + trace_id, "task": "x", "agent_type": "a", "parent_trace_id": above}
        answer = await client.post("/api/traces", json=spec, headers=headers)
    else:
        root = model.root_of(token if token is not None else parent or trace_id)
        body = export(name + trace_id, above, name + root)
        answer = await client.post("/api/import", content=body, headers=headers)
    assert answer.status_code in (200, 201, 403, 404, 409, 422), answer.text
    if answer.status_code < 300 and trace_id not in before:
        model.add(token, trace_id, parent, root=root)
    elif answer.status_code < 300:
        assert model.covers(token, trace_id)
        if what == "import":
            model.traces[trace_id].messages = 1


async def agree(log: EventLog, client: httpx.AsyncClient, name: str, tokens: dict[str | None, str], m: Model) -> None:
    """What each token is shown is what the model says."""
    for token in ("a", "p"):
        answer = await client.get("/api/traces?limit=1000", headers=bearer(tokens[token]))
        assert {one["trace_id"][len(name) :] for one in answer.json()["traces"]} == m.seen(token)
        for one in IDS:
            assert await log.tokens.covers(name + token, name + one) == m.covers(token, one)
    for summary in await log.summaries([name + one for one in m.traces]):
        under = m.under(summary["trace_id"][len(name) :])
        assert summary["tree_totals"]["total_messages"] == sum(m.traces[one].messages for one in under)


async def live(histories: list[list[Step]], folder: Path) -> None:
    async with serving(folder / "log.db") as server, http(server) as client:
        log = server.services.log
        everything = await log.tokens.create(["admin"])
        for history in histories:
            name, model = f"{next(numbers)}.", Model()
            tokens: dict[str | None, str] = {None: everything}
            for one in ("a", "p"):
                tokens[one] = await log.tokens.create(["admin"], trace_id=name + one)
            for step in history:
                await take(client, step, name, tokens, model)
                await agree(log, client, name, tokens, model)
    assert not doctor.errors(folder / "log.db")


ATTACK: list[Step] = [("import", None, "f", "p"), ("create", None, "a", None), ("create", "a", "p", "a")]
ADOPTED: list[Step] = [("import", None, "f", "p"), ("create", None, "a", None), ("import", None, "p", "a")]
AGAIN: list[Step] = [*ATTACK, ("delete", "a", "p", None), ("import", None, "p", "a"), ("delete", "a", "a", None)]
OWN: list[Step] = [("import", "a", "g", "a"), ("import", "a", "f", "g"), ("create", "a", "a", None)]
MOVED: list[Step] = [
    *(
        ("create", None, "a", None),
        ("create", None, "p", None),
        ("create", None, "f", "p"),
        ("create", None, "g", None),
    ),
    *(("move", None, "f", "a"), ("move", "a", "f", "a"), ("move", None, "g", "f"), ("delete", "p", "p", None)),
    *(("create", None, "p", "a"), ("move", None, "g", "p"), ("delete", "a", "a", None)),
]
NAMED: list[Step] = [("import", None, "f", "a"), ("create", "a", "a", None), ("delete", "a", "a", None)]


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@example([ATTACK, ADOPTED, AGAIN, OWN, NAMED, MOVED])
@given(st.lists(steps, min_size=1, max_size=4))
def test_a_token_covers_what_came_below_its_trace(
    tmp_path_factory: pytest.TempPathFactory, histories: list[list[Step]]
) -> None:
    run_checked(live(histories, tmp_path_factory.mktemp("cover")))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "log.db") as started:
        yield started


async def foreign(server: Serving) -> tuple[EventLog, str]:
    """A log with the trace ``mine``, and ``theirs``, which came without its parent ``lost``; and a token of ``mine``.

    ``lost`` was then made up below ``mine`` with that token.
    """
    log = server.services.log
    await make_trace(log, "mine")
    token = await log.tokens.create(["admin"], trace_id="mine")
    question = {"event": "input_requested", "request_id": "q", "question": "secret?", "goal_id": None}
    async with http(server, headers=bearer(await log.tokens.create(["admin"]))) as client:
        body = export("theirs", "lost", "lost", {**question, "expires_at": None})
        assert (await client.post("/api/import", content=body)).status_code == 200
    async with http(server, headers=bearer(token)) as client:
        spec = {"trace_id": "lost", "task": "x", "parent_trace_id": "mine"}
        assert (await client.post("/api/traces", json=spec)).status_code == 201
    return log, token


async def test_a_parent_that_was_made_up_shows_nothing(server: Serving) -> None:
    log, token = await foreign(server)
    async with http(server, headers=bearer(token)) as client:
        for path in ("", "/events", "/messages", "/messages/m", "/inputs/q"):
            refused(await client.get(f"/api/traces/theirs{path}"), 404, "unknown_trace")
        for path, body in (
            ("/events", {"event": "x"}),
            ("/cancel", {}),
            ("/heartbeat", None),
            ("/inputs/q", {"value": 1}),
        ):
            refused(await client.post(f"/api/traces/theirs{path}", json=body), 404, "unknown_trace")
        refused(await client.delete("/api/traces/theirs"), 404, "unknown_trace")
        assert (await client.get("/api/inputs")).json()["inputs"] == []
        children = (await client.get("/api/traces?parent_trace_id=lost")).json()["traces"]
        assert children == []
        async with socket(server, "/api/watch", token) as watch:
            await watch.say({"subscribe": {"trace_id": "mine", "subtree": True}})
            await watch.had("caught_up", trace_id="lost")
            await log.append("theirs", [{"event": "trace_completed", "status": "completed", "summary": "secret"}])
            await append(log, "lost", 1)
            await watch.until_events(2)
            assert {frame.get("trace_id") for frame in watch.control} == {"mine", "lost"}
        for trace_id in ("mine", "lost"):
            shown = await client.get(f"/api/traces/{trace_id}")
            assert "theirs" not in shown.text and "secret" not in shown.text
            assert shown.json()["trace"]["tree_totals"]["total_messages"] == 0
        assert "theirs" not in (await client.get("/api/traces/lost/events")).text
        assert (await client.delete("/api/traces/lost")).json()["deleted"] == ["lost"]
    assert (await log.snapshot("theirs")).state.status == "completed"


async def test_a_parent_that_is_put_back_has_its_sub_trace_again(server: Serving) -> None:
    log, token = await foreign(server)
    await log.delete_trace("lost")
    await make_trace(log, "lost", parent_trace_id="mine")
    async with http(server, headers=bearer(token)) as client:
        assert (await client.get("/api/traces/theirs")).status_code == 200
        assert (await client.get("/api/traces/mine")).json()["trace"]["tree_totals"]["total_messages"] == 1
    await log.append("theirs", [{"event": "trace_completed", "status": "completed", "summary": None}])
    told = (await log.read("lost", 0, max_events=10, max_bytes=1 << 20)).bodies
    assert [orjson.loads(body)["event"] for body in told] == ["sub_trace_completed"]


def held_until(go_on: asyncio.Event, read: Any) -> Any:
    """The same read, later."""

    async def later(*asked: Any) -> Any:
        await go_on.wait()
        return await read(*asked)

    return later


async def test_a_list_forgets_what_was_made_again_elsewhere(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted and created again between two looks of the list: the client has the old one, and may not see the new."""
    log = server.services.log
    await make_trace(log, "mine")
    await make_trace(log, "mine.sub", parent_trace_id="mine")
    await make_trace(log, "other")
    token = await log.tokens.create(["read"], trace_id="mine")
    async with socket(server, "/api/watch", token) as watch:
        await watch.say({"subscribe_traces": {}})
        assert {one["trace_id"] for one in (await watch.until("traces"))["traces"]} == {"mine", "mine.sub"}
        go_on = asyncio.Event()
        for name in ("lines", "summaries"):
            monkeypatch.setattr(log, name, held_until(go_on, getattr(log, name)))
        await log.delete_trace("mine.sub")
        await make_trace(log, "mine.sub", parent_trace_id="other")
        go_on.set()
        told = await watch.until("trace_deleted")
        assert told["trace_id"] == "mine.sub"
        await append(log, "mine.sub", 1)
        await append(log, "mine", 1)
        assert (await watch.until("trace_changed"))["trace"]["trace_id"] == "mine"


async def answer_of(record: Watch, kind: str) -> Any:
    """The next answer of this kind on a record socket."""
    async with asyncio.timeout(DEADLINE_S):
        while kind not in (frame := await record.frame()):
            pass
    return frame[kind]


@pytest.mark.parametrize("path", ["/api/record", "/api/traces/mine.sub/record"])
async def test_a_record_socket_writes_nothing_into_what_was_made_again_elsewhere(server: Serving, path: str) -> None:
    log = server.services.log
    await make_trace(log, "mine")
    await make_trace(log, "mine.sub", parent_trace_id="mine")
    await make_trace(log, "other")
    token = await log.tokens.create(["write"], trace_id="mine")
    tag = {"trace_id": "mine.sub"} if path == "/api/record" else {}
    async with socket(server, path, token) as record:
        if tag:
            await record.say({"open": tag})
        await answer_of(record, "ready")
        await record.say({"append": {**tag, "events": [{"event": "x"}]}})
        await answer_of(record, "ack")
        await log.delete_trace("mine.sub")
        await make_trace(log, "mine.sub", parent_trace_id="other")
        await record.say({"append": {**tag, "events": [{"event": "x"}]}})
        assert (await answer_of(record, "nack"))["error"] == "unknown_trace"
        await log.cancel("mine.sub", reason="secret")
        await record.say({"append": {**tag, "events": [{"event": "x"}]}})
        assert (await answer_of(record, "nack"))["error"] == "unknown_trace"
        assert not record.events, "a command of another trace"
    page = await log.read("mine.sub", 0, max_events=10, max_bytes=1 << 20)
    assert b'"event":"x"' not in b"".join(page.bodies)


async def test_what_was_moved_below_a_trace_is_not_shown_to_its_token(server: Serving) -> None:
    """The list, the watch and the record socket of a token of one trace go by what was recorded."""
    log = server.services.log
    for name in ("mine", "theirs"):
        await make_trace(log, name)
    await make_trace(log, "theirs.sub", parent_trace_id="theirs")
    ours, others = [await log.tokens.create(["admin"], trace_id=name) for name in ("mine", "theirs")]
    async with http(server, headers=bearer(await log.tokens.create(["admin"]))) as client:
        raw = {"event": "trace_parent_changed", "parent_trace_id": "mine"}
        assert (await client.post("/api/traces/theirs.sub/events", json=raw)).status_code == 200
        assert (await client.get("/api/traces/theirs.sub")).json()["trace"]["root_trace_id"] == "mine"
    async with http(server, headers=bearer(ours)) as client:
        for path in ("", "/events", "/messages"):
            refused(await client.get(f"/api/traces/theirs.sub{path}"), 404, "unknown_trace")
        refused(await client.post("/api/traces/theirs.sub/events", json=raw), 404, "unknown_trace")
        refused(
            await client.post("/api/traces/mine/events", json={**raw, "parent_trace_id": "theirs"}),
            404,
            "unknown_parent",
        )
        assert [one["trace_id"] for one in (await client.get("/api/traces")).json()["traces"]] == ["mine"]
    async with http(server, headers=bearer(others)) as client:
        assert (await client.get("/api/traces/theirs.sub")).status_code == 200
    async with socket(server, "/api/watch", ours) as watch, socket(server, "/api/watch", others) as theirs:
        await watch.say({"subscribe": {"trace_id": "mine", "subtree": True}})
        await watch.had("caught_up", trace_id="mine")
        await theirs.say({"subscribe": {"trace_id": "theirs.sub"}})
        await theirs.had("caught_up", trace_id="theirs.sub")
        await append(log, "theirs.sub", 1)
        await append(log, "mine", 1)
        await watch.until_events(2)  # that it stands there, and the new one
        assert {orjson.loads(body)["trace_id"] for body in watch.events} == {"mine"}
    async with socket(server, "/api/record", others) as record:
        await record.say({"open": {"trace_id": "theirs.sub"}})
        await answer_of(record, "ready")
        await record.say({"append": {"trace_id": "theirs.sub", "events": [raw]}})
        assert (await answer_of(record, "nack"))["error"] == "unknown_parent"
