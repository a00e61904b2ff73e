"""A model call: the message that is its answer, and the request that says what it was asked.

Rule 1: the request names what the trace has. What it does not have yet and is said to the model for the first time
        becomes a message of the trace, before the call's own: so a reader sees each text once, where it was said.
Rule 2: what stands between known items, and what is no message, stays in the request. Where that is large it stands in
        an attachment that the request names, so that a call's events stay small.
Rule 3: what the agent gives is copied at once and never changed. The work is bounded: so many items, so many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from types import EllipsisType
from typing import Any, NamedTuple

import orjson

from ..model.contents import reference
from ..model.fit import marker
from ..model.prompt import digest_of, digest_of_all, kind_of
from .conversation import CONTENT, NOWHERE, Asked, Conversation, Run, TextPlace, key_of, runs
from .encode import dumps_whole, guarded, settled
from .forms import ANSWERS, Saying, answer_of, calls_in, role_of, told_by
from .handles import Goal, Message, id_of
from .journal import Journal

MOST_ITEMS = 20_000  # of an input
MOST_SAID = 2_000  # the last items of an input that may become messages of the trace
MOST_BYTES = 64 * 1024 * 1024  # of an input, as JSON
INLINE_BYTES = 4 * 1024  # of items in a row that stand in the request itself
REFERENCES_BYTES = 48 * 1024  # of an input's references in one event
ATTACHED_BYTES = 1024 * 1024  # of items in one attachment
_WORTH_BYTES = 64  # of a value inside an item that is looked for in the trace
_MOST_LOOKS = 2_000  # values inside an item that are looked for
_SHORT_PARAMS = 64  # bytes that are not worth a reference

Forms = list[Any]  # of items: references, values with parts of messages, and ``_Item`` for what stands for itself


class _Item(NamedTuple):
    """One item of an input, as it was given."""

    json: bytes
    key: bytes

    @property
    def value(self) -> Any:
        """The item, a copy of our own."""
        return orjson.loads(self.json)


class ModelCall(Message):
    """A call of a model, as ``t.llm`` returns it: the message that is its answer. ``id`` is its message_id.

    with t.llm("claude-sonnet-4-5", messages=history) as m:
        for text in stream:
            m.stream(text)
        m.usage(input_tokens=1200, output_tokens=300)
    """

    def __init__(
        self,
        journal: Journal,
        model: Any,
        goal: Goal | str | EllipsisType | None,
        asked: tuple[Any, Any, Any, Any],
        values: dict[str, Any],
    ) -> None:
        """``asked``: messages, system, params and tools, as ``t.llm`` takes them."""
        super().__init__(journal, "assistant", goal, {**values, "model": model})
        messages, system, params, tools = asked
        self._goal = goal if goal is ... else id_of(goal)  # once: each message that is asked names it
        first = [] if system is None else [{"role": "system", "content": system}]
        self._input = None if messages is None and not first else _items([*first, *_listed(messages)])
        self._tools = None if tools is None else _items(_listed(tools))
        self._params = None if params is None else _params(params)
        self._was_asked = False
        self._call: Asked | None = None

    def answer(self, content: Any) -> None:
        """Set the answer of a model that does not stream.

        ``content``: its text, its blocks, or the whole message in a form that a model API gives; tool calls in it are
        kept as ``tool_calls``.

            m.answer(response["choices"][0]["message"])
        """
        said, more = answer_of(orjson.loads(dumps_whole(content, MOST_BYTES // 4)))
        self.set(content=said, **more)

    def add(self, content: Any, status: str = "complete") -> None:
        """Record the message with this content, and before it what the model is asked, if they are not there yet."""
        if not self._was_asked:
            self._was_asked = True
            try:
                request = _Request(self._journal, self.id, self._goal).of(self._input, self._tools, self._params)
            except Exception as error:
                self._journal.own_fault(error)
            else:
                self._call = request.call
                self._values = {**self._values, "request": request.json}
        super().add(content, status)

    def _note(self, patch: dict[str, Any], changed: bool) -> None:
        super()._note(patch, changed)
        if self._call is not None:
            self._call.answered = self._sum is not None or bool(patch.get("content")) or "tool_calls" in patch


def _listed(given: Any) -> list[Any]:
    """What is given as a list; a text or an object by itself is a list of one."""
    kind = type(given)
    if given is None:
        return []
    if kind is list or kind is tuple:
        return list(given[: MOST_ITEMS + 1])
    if issubclass(kind, (str, bytes, bytearray, dict)):
        return [given]
    return guarded(lambda: list(islice(given, MOST_ITEMS + 1)), [given])


def _items(given: list[Any]) -> list[_Item]:
    """The items as JSON, and what they are known by. Of too many, or too large ones, the last says how many are cut."""
    items: list[_Item] = []
    size = 0
    spent_s: list[float] = []
    for index, value in enumerate(given):
        json = dumps_whole(value, MOST_BYTES // 4, spent_s)
        size += len(json)
        if index >= MOST_ITEMS or size > MOST_BYTES:
            json = orjson.dumps(f"{marker(len(json))} and {len(given) - index - 1} more items")
            return [*items, _Item(json, digest_of(json))]
        items.append(_Item(json, digest_of(json)))
    return items


def _params(given: Any) -> dict[str, Any]:
    params = orjson.loads(dumps_whole(given, MOST_BYTES // 4))
    return params if type(params) is dict else {"params": params}


class _Request:
    """The work on one request."""

    def __init__(self, journal: Journal, message_id: str, goal: Goal | str | EllipsisType | None) -> None:
        self.json: dict[str, Any] = {}
        self.call: Asked | None = None
        self._journal = journal
        self._known: Conversation = journal.conversation
        self._id = message_id
        self._goal = goal
        self._used: set[str] = set()  # messages that items of this input are

    def of(self, given: list[_Item] | None, tools: list[_Item] | None, params: dict[str, Any] | None) -> _Request:
        """Make it, and record what the trace does not have."""
        outbox = self._journal.outbox
        with self._journal.lock:
            self._known.learn((outbox.producer, outbox.dropped))
            before = self._known.before([item.key for item in given or ()])
        ids: list[tuple[str, ...]] = []
        params_at, params_key = self._put_params(params)
        tools_at = self._put_tools(tools)
        if given is not None:
            forms, ids = self._input(given, before)
            self.json["input"] = self._carried(self._shelved(forms, "input"))
        keys = [[item.key for item in items or ()] for items in (tools, given)]
        self.json["digest"] = digest_of_all(params, *keys)
        self.call = Asked(self._id, keys[1], ids, keys[0], tools_at, params_key, params_at)
        with self._journal.lock:
            self._known.remember(self.call, before)
        return self

    def _put_params(self, params: dict[str, Any] | None) -> tuple[str, bytes]:
        json = orjson.dumps(params)
        key = digest_of(json)
        if params is None:
            return self._id, key
        same = self._known.with_params(key) if len(json) > _SHORT_PARAMS else None
        if same is not None:
            self.json["params_of"] = same.params_at
            return same.params_at, key
        self.json["params"] = settled(params, self._journal.keep)
        return self._id, key

    def _put_tools(self, tools: list[_Item] | None) -> str:
        if tools is None:
            return self._id
        keys = [item.key for item in tools]
        before = self._known.with_tools(keys) if keys else None
        if before is not None and before.tools == keys:
            self.json["tools"] = [{"tools_of": before.tools_at, "to": len(keys)}]
            return before.tools_at
        forms: Forms = []
        place = 0
        for run in runs(keys, before.tools) if before is not None else []:
            forms += tools[place : run.first]  # items stand for themselves until it is known how large they are
            assert before is not None
            forms.append(_range("tools_of", before.message_id, run))
            place = run.end
        forms += tools[place:]
        self.json["tools"] = self._shelved(forms, "tools")
        return self._id

    # --- the input ---

    def _input(self, given: list[_Item], before: Asked | None) -> tuple[Forms, list[tuple[str, ...]]]:
        """The items in the form of the request, and of each the messages that it is made of."""
        found = runs([item.key for item in given], before.input) if before is not None else []
        tell_from = max(self._tell_from(given, found), len(given) - MOST_SAID)
        ids: list[tuple[str, ...]] = [()] * len(given)
        for run in found:
            assert before is not None
            ids[run.first : run.end] = before.ids[run.origin : run.origin + run.end - run.first]
        with self._journal.lock:
            self._used = self._known.claimed()  # of another conversation: the same words there are another message
        forms: Forms = []
        place = 0
        for run in [*found, Run(len(given), len(given), 0)]:
            for index in range(place, run.first):
                tell = index >= tell_from and not (
                    before is not None and before.answered and role_of(given[index].value) in ANSWERS
                )
                form, ids[index] = self._form(given, index, tell=tell)
                forms.append(form)
            if before is not None and run.end > run.first:
                forms.append(_range("input_of", before.message_id, run))
            place = run.end
        return forms, ids

    def _tell_from(self, given: list[_Item], found: Sequence[Run]) -> int:
        """From which item on an unknown one is said for the first time."""
        if found:
            return found[-1].end
        if "resume" not in self._journal.outbox.spec:
            return 0
        # Another process has recorded what was said before, which this one does not know
        last = [index for index, item in enumerate(given) if role_of(item.value) in ANSWERS]
        return last[-1] + 1 if last else 0

    def _form(self, given: list[_Item], index: int, *, tell: bool) -> tuple[Any, tuple[str, ...]]:
        value = given[index].value
        told = told_by(value, {})
        if any(one.is_result for one in told):
            told = told_by(value, calls_in(item.value for item in given[:index]))
        parts: dict[str, TextPlace] = {}
        ids: list[str] = []
        for one in told:
            place = self._known_place(one)
            if place is None and tell:
                place = TextPlace(self._record(one), CONTENT)
                parts |= {pointer: TextPlace(place.message_id, at) for pointer, at in one.parts}
            elif place is not None and place.at != NOWHERE:
                parts |= _placed(one, place)
            if place is not None:
                ids.append(place.message_id)
                self._used.add(place.message_id)
        whole = type(value) is dict and list(value) == ["role", "content"] and list(parts) == [CONTENT]
        if whole and value["role"] == told[0].role and parts[CONTENT].at == CONTENT and not told[0].is_result:
            return {"message_id": parts[CONTENT].message_id}, tuple(ids)
        if not parts:
            parts = _Looking(self._known, self._used).inside(value)
        if not parts:
            return given[index], tuple(ids)
        named = {
            pointer: {"message_id": place.message_id} | ({} if place.at == CONTENT else {"at": place.at})
            for pointer, place in parts.items()
        }
        return {"value": _emptied(value, list(parts)), "parts": named}, tuple(ids)

    def _known_place(self, told: Saying) -> TextPlace | None:
        """Where the trace has a message, of which the input has none before."""
        known = self._known
        keys = _keys(told.content["result"] if told.is_result else told.content)
        place = next(filter(None, (known.message(told.role, key, self._used) for key in keys)), None)
        if place is not None or not told.is_result:
            return None if place is None else TextPlace(place.message_id, CONTENT)
        place = next(filter(None, (known.result(key, self._used) for key in keys)), None)
        if place is None and (call := known.tool_call(told.tool_call_id)) is not None:
            return TextPlace(call, NOWHERE)
        return place

    def _record(self, told: Saying) -> str:
        """Record a message that the trace does not have."""
        values = {} if told.tool_call_id is None else {"tool_call_id": told.tool_call_id}
        message = Message(self._journal, told.role, self._goal, values)
        message.add(told.content)
        return message.id

    # --- what is large ---

    def _shelved(self, forms: Forms, name: str) -> Forms:
        """The items, those that are themselves and large together in attachments."""
        kept: Forms = []
        row: list[bytes] = []
        for form in [*forms, None]:
            if type(form) is _Item:
                row.append(form.json)
                continue
            if sum(map(len, row)) > INLINE_BYTES:
                kept += self._attached(row, name)
            else:
                values = map(orjson.loads, row)
                kept += [{"value": value} if kind_of(value, name) else value for value in values]
            row = []
            if form is not None:
                kept.append(form)
        return kept

    def _attached(self, row: list[bytes], name: str) -> Forms:
        forms: Forms = []
        while row:
            count, size = 1, len(row[0])
            while count < len(row) and size + len(row[count]) <= ATTACHED_BYTES:
                size += len(row[count])
                count += 1
            some, row = row[:count], row[count:]
            about = f"{name} ({count} item{'' if count == 1 else 's'})"
            values = {"description": about, "field": f"request.{name}", "of_message": self._id}
            attachment = Message(self._journal, "attachment", self._goal, values)
            attachment.add(f"[{b','.join(some).decode()}]")
            forms.append({"list_of": attachment.id, "to": count})
        return forms

    def _carried(self, forms: Forms) -> Forms:
        """The items; where they are too many for one event, others carry parts of them."""
        if len(orjson.dumps(forms)) <= REFERENCES_BYTES:
            return forms
        kept: Forms = []
        row: Forms = []
        size = 0
        for form in [*forms, None]:
            if row and (form is None or size > REFERENCES_BYTES // 2):
                values = {"description": "input (a part of it)", "field": "request.input", "of_message": self._id}
                carrier = Message(self._journal, "attachment", self._goal, {**values, "request": {"input": row}})
                carrier.add("")
                kept.append({"input_of": carrier.id, "to": sum(_count(one) for one in row)})
                row, size = [], 0
            if form is not None:
                row.append(form)
                size += len(orjson.dumps(form))
        return kept


def _keys(said: Any) -> list[bytes]:
    """What a value is known by: as it is, and as a message has it whose large and binary parts stand beside the log."""
    key, kept = key_of(said), settled(said, reference)
    return [key] if kept == said else [key, key_of(kept)]


def _count(form: Any) -> int:
    if type(form) is dict and ("input_of" in form or "list_of" in form):
        return int(form["to"]) - int(form.get("from", 0))
    return 1


def _range(key: str, message_id: str, run: Run) -> dict[str, Any]:
    first = {"from": run.origin} if run.origin else {}
    return {key: message_id, **first, "to": run.origin + run.end - run.first}


def _placed(told: Saying, place: TextPlace) -> dict[str, TextPlace]:
    if told.is_result:
        return {told.parts[0][0]: place}
    return {pointer: TextPlace(place.message_id, at) for pointer, at in told.parts}


def _emptied(value: Any, pointers: list[str]) -> Any:
    """The value with null in some places."""
    holder: list[Any] = [value]
    for pointer in pointers:
        inside: Any = holder
        key: Any = 0
        for step in pointer.split("/")[1:]:
            inside = inside[key]
            step = step.replace("~1", "/").replace("~0", "~")
            key = int(step) if type(inside) is list else step
        inside[key] = None
    return holder[0]


class _Looking:
    """The search for what the trace has inside an item."""

    def __init__(self, known: Conversation, used: set[str]) -> None:
        self._known = known
        self._used = used
        self._looks = _MOST_LOOKS

    def inside(self, value: Any, pointer: str = "") -> dict[str, TextPlace]:
        """The largest parts of a value that the trace has, by their JSON pointers."""
        self._looks -= 1
        kind = type(value)
        if self._looks < 0 or kind not in (str, dict, list):
            return {}
        if len(value if kind is str else orjson.dumps(value)) < _WORTH_BYTES:
            return {}
        place = self._known.text(key_of(value), self._used)
        if place is not None:
            return {pointer: place}
        if kind is str:
            return {}
        found: dict[str, TextPlace] = {}
        for key, item in value.items() if kind is dict else enumerate(value):
            step = str(key).replace("~", "~0").replace("/", "~1")
            found |= self.inside(item, f"{pointer}/{step}")
        return found
