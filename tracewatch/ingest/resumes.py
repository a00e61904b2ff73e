"""Runs that go on in another trace of their source: LangGraph's, which a person's answer resumes.

Rule 1: what a thread's runs have in common is its id, the session of their trace. A root that resumes goes on in the
        newest trace of its thread that waits, as a step in it. It may come before the run that it resumes.
Rule 2: nothing is remembered that the log does not have: a trace's metadata names the ``runs`` that stand in it beside
        the one it is named after and whether they resumed or began it, ``resumed`` where the resume came first, and
        ``checkpoint_ns`` of a sub-agent.
Rule 3: a sub-agent that is resumed goes on in its own trace: it is known by its name and its place in the graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from .items import ROOT, Item, stamp
from .known import Known, key_of
from .store import Store

MOST_HOMES = 20_000
BEGAN, RESUMED = "began", "resumed"  # what a run is to the trace that it stands in
MOST_RUNS = 200  # named in a trace's metadata
MOST_VALUE = 2000  # characters of an answer that is kept for a question that comes later


class Threads:
    """In which trace of the source each run of a thread stands."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._homes: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def joined(self, source: str, trace: str, items: list[Item]) -> tuple[str, list[Item]]:
        """The trace of the source in which a run goes on, and its items as items of that trace."""
        home, runs = await self._home(source, trace, items)
        return home, items if home == trace else list(_moved(items, trace, home, runs))

    async def _home(self, source: str, trace: str, items: list[Item]) -> tuple[str, dict[str, str]]:
        """The trace where a run's items stand, and the runs that stand there beside the first one."""
        thread = next((item.thread for item in items if item.thread), None)
        if thread is None:
            return self._homes.get((source, trace), trace), {}
        root = next((item for item in items if item.key == key_of(trace) and item.parent == ROOT), None)
        known = self._homes.get((source, trace))
        if known == trace or (known is not None and root is None):
            return known, {}
        rows = [row for row in await self._store.of_session(thread) if _about(row).get("source") == source]
        there = next((row for row in rows if trace in _runs(row) or key_of(trace) in _owners(row)), None)
        if there is None and not any(_about(row).get("trace") == trace for row in rows):
            there = _where(rows, root)
        home = trace if there is None else str(_about(there).get("trace"))
        if root is not None or there is not None or known is not None:
            self._homes[source, trace] = home
            if len(self._homes) > MOST_HOMES:
                self._homes.popitem(last=False)
        if there is None or root is None:
            return home, {}
        runs = _runs(there)
        if trace not in runs:
            began = root.resumes is None and (stamp(root.started_at) or "") < there["started_at"]
            runs = dict(list(runs.items())[1 - MOST_RUNS :]) | {trace: BEGAN if began else RESUMED}
        return home, runs


def _about(row: dict[str, Any]) -> dict[str, Any]:
    about = row["metadata"].get("ingest")
    return about if isinstance(about, dict) else {}


def _runs(row: dict[str, Any]) -> dict[str, str]:
    runs = row["metadata"].get("runs")
    return {key: str(how) for key, how in runs.items()} if isinstance(runs, dict) else {}


def _where(rows: list[dict[str, Any]], root: Item | None) -> dict[str, Any] | None:
    """The trace of a thread where a run goes on that no trace has yet; newest first. None: it begins one.

    Where a root has not come yet, it may be this one that it resumes, or that resumes it. A run that turns out to be
    none of it stands beside the other.
    """
    at = None if root is None else stamp(root.started_at)
    waiting = next((row for row in rows if row["status"] == "waiting"), None)
    stub = next((row for row in rows if _is_stub(row)), None)
    headless = next((row for row in rows if isinstance(row["metadata"].get("resumed"), dict)), None)
    if root is None:
        return waiting or stub or headless or (rows[0] if rows else None)
    if root.resumes is not None:
        earlier = next((row for row in rows if at is None or row["started_at"] <= at), None)
        return waiting or stub or earlier or headless
    if root.final and root.task is None and waiting is not None:
        return waiting  # an end that does not say with what it began
    return stub or (headless if headless is not None and (at or "") < headless["started_at"] else None)


def _owners(row: dict[str, Any]) -> dict[str, Any]:
    """The keys of the items that a trace stands for, and what these are: None for one that has not come."""
    owners = _about(row).get("owners")
    found = [one for one in owners if isinstance(one, dict)] if isinstance(owners, list) else []
    return {str(one.get("key")): one.get("kind") for one in found}


def _is_stub(row: dict[str, Any]) -> bool:
    return None in list(_owners(row).values())[:1]


def _moved(items: list[Item], trace: str, home: str, runs: dict[str, str]) -> Iterable[Item]:
    own, root = key_of(trace), key_of(home)
    answered = any(item.resumes is not None for item in items if item.key == own)
    for item in items:
        item = replace(item, trace=home, root=root)
        if item.kind == "question":  # the same place in a graph may ask again when it is resumed
            item.key, item.parent = key_of(f"{item.key}.{trace[-8:]}"), root if item.parent == own else item.parent
        if item.key != own or item.parent != ROOT:
            yield item
            continue
        began = runs.get(trace) == BEGAN
        step, agent = goes_on(item, root, kind="run" if began else "resume")
        agent.parent, agent.fields = ROOT, {"runs": runs}
        if began:  # its resume came before it
            agent.final, agent.status, agent.task = False, None, item.task
            agent.result = agent.error = agent.ended_at = None
        elif step.final and not answered:
            step.resumes = [None]  # an end that does not say with what it began
        yield agent
        yield step


def goes_on(item: Item, into: str, *, kind: str = "resume") -> tuple[Item, Item]:
    """An agent's run that goes on in another's as a step there, and what it says of that agent."""
    step = replace(item, kind="step", parent=into, task=None, session_id=None, user_id=None, tags=None, place=None)
    step.fields = {"kind": kind}
    step.arguments = item.resumes[0] if item.resumes else None
    agent = Item(trace=item.trace, key=into, kind="agent", root=item.root, name=item.name, final=item.final)
    agent.started_at, agent.ended_at = item.started_at, item.ended_at
    agent.status = item.status if item.final or item.status else "running"
    agent.result, agent.error = item.result, item.error
    return step, agent


def begins_resumed(item: Item) -> dict[str, Any]:
    """What a trace's metadata says where a resume came before what it resumes."""
    value = (item.resumes or [None])[0]
    text = orjson.dumps(value)
    return {"resumed": {"at": stamp(item.started_at), "value": value if len(text) <= MOST_VALUE else None}}


def parked_in(known: Known, items: list[Item]) -> list[Item]:
    """The items, with what says of a sub-agent that it goes on as items of the one that was interrupted."""
    if not known.places or not known.resumed:
        return items
    found: list[Item] = []
    for item in items:
        into = _parked(known, item) if item.kind == "agent" and item.place else None
        if into is None:
            found.append(item)
            continue
        step, agent = goes_on(item, into)
        late = known.entry(item.key).final and not item.final
        found += [step] if late else [agent, step]
    return found


def place_of(name: str | None, place: str | None) -> str:
    """By what a sub-agent is known again when it is resumed."""
    return f"{name}|{place}"


def _parked(known: Known, item: Item) -> str | None:
    """The sub-agent that an agent's run goes on as; None if it is one of its own."""
    first = known.places.get(place_of(item.name, item.place), [item.key])[0]
    if first == item.key:
        return None
    trace = known.traces.get(known.by_owner.get(first, ""))
    there = known.items.get(item.key)
    is_it = there is not None and there.kind == "step" and there.parent == first
    return first if is_it or (there is None and trace is not None and trace.status == "waiting") else None


def left_waiting(known: Known) -> list[str]:
    """The traces of sub-agents that were interrupted, and went on in runs that came before that was known."""
    alike = [keys for keys in known.places.values() if len(keys) > 1] if known.resumed else []
    traces = (known.traces.get(known.by_owner.get(key, "")) for keys in alike for key in keys)
    return [trace.trace_id for trace in traces if trace is not None and trace.status == "waiting"]


def answer_to(question: str, answers: list[Any]) -> Any:
    """The answer to one question: of several each has its own, by its id."""
    value = answers[0] if answers else None
    if isinstance(value, dict):
        for key, one in value.items():
            if question == key or question.startswith(f"{key}."):
                return one
    return value
