"""What every source's mapping gives: items. Pure data: no I/O, no clock, no log.

Rule 1: an item is one thing that happened in the source: an agent's run, a model call, a tool call … It is known by the
        source's own ids: ``trace`` (what the source calls a trace, thread or session) and ``key`` (a span's or run's
        id), never by a hash of what is in it.
Rule 2: an item may come many times (at its start, at its end, a repeat, a retry) and in any order. Each says what it
        knows, and None stands for "not said". ``merged`` puts two together; ``final`` says more than not final.
Rule 3: ``parent`` is the key of the item above, in the same trace: ``ROOT`` for one that has none, None while it isn't
        known. A parent may come later than its child, or never.
Rule 4: times are Unix seconds by the source's own clock. Tokens are counted as docs/protocol.md says: cached ones are
        part of the input, reasoning is part of the output (``usage_of``).
Rule 5: values are JSON: what a source sends otherwise (bytes, NaN) is made JSON by its mapping (``plain``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from ..model import fit
from ..model.times import format_time

Kind = Literal["agent", "model_call", "tool", "step", "goal", "question", "message", "event"]
ROOT = ""  # the parent of an item that has none
EARLIEST = 946_684_800.0  # 2000-01-01: a time before it is a clock that was never set
SURROGATES = dict.fromkeys(range(55296, 57344), "�")
DEEPEST = 100  # levels of a value of a source; deeper ones are their text


@dataclass(slots=True, kw_only=True)
class Item:
    """What a source has said of one thing that happened. Only ``trace`` and ``key`` are needed.

        Item(trace="7f3a", key="span-1", kind="tool", parent="span-0", name="get_weather", started_at=1796014139.6)

    ``fields`` are further keys that are kept as they are: of a trace in its metadata, of a message beside the others.
    """

    trace: str  # the source's id for what belongs together; with the source's name it makes our trace_id
    key: str  # the source's id of this item; becomes the message's, step's or goal's id
    kind: Kind | None = None
    parent: str | None = None  # key of the item above, ROOT, or None: not known
    name: str | None = None  # of the agent, tool, step or event; of a goal its description
    started_at: float | None = None
    ended_at: float | None = None
    final: bool = False  # nothing more is to come: it has ended
    error: Any = None  # {"type", "message", "traceback"?}, or text
    root: str | None = None  # key of its trace's root, where the source says it with every item
    within: Kind | None = None  # if an item of this kind stands above, this one is a step in it
    thread: str | None = None  # of a run that may be interrupted and go on in another trace of the source
    resumes: list[Any] | None = None  # of a root that goes on where its thread was interrupted: [the answer]
    place: str | None = None  # of an agent: where it stands in its graph, also when it is resumed
    status: str | None = None  # agent: completed, failed, stopped, waiting, idle; goal: as the protocol's goals

    # what it said, of a model call or a message
    role: str | None = None  # of a message: user, system …; a model call is "assistant"
    text: str | None = None
    more: tuple[int, str] | None = None  # text that streams: what follows the first so many characters
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None  # that the model asked for: {"id"?, "name", "arguments"?}
    content: Any = None  # of a message: instead of ``text`` where it isn't text
    model: str | None = None
    usage: dict[str, int] | None = None  # of a model call only, normalised (``usage_of``)
    cost: float | None = None  # US dollars, where the source says it
    input: list[dict[str, Any]] | None = None  # what it was asked: {"role", "content", "tool_calls"?, "tool_call_id"?}
    tools: list[Any] | None = None  # that the model was offered
    params: dict[str, Any] | None = None  # temperature …

    # of a tool call, or an agent's run
    tool_call_id: str | None = None
    arguments: Any = None  # of an agent: what it was asked to do
    result: Any = None  # of an agent: its answer

    # of a question
    options: list[Any] | None = None
    schema: dict[str, Any] | None = None

    # of an agent: of its trace
    task: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    tags: list[str] | None = None
    links: list[dict[str, Any]] | None = None  # to other items: {"trace", "key", "kind"?}

    fields: dict[str, Any] = field(default_factory=dict)


_NAMES = tuple(one.name for one in fields(Item) if one.name not in ("trace", "key", "final", "fields"))


def merged(old: Item, new: Item) -> Item:
    """What both have said together; where both say something, the later one, but never less than a final one.

    >>> merged(Item(trace="t", key="a", name="x"), Item(trace="t", key="a", model="m")).name
    'x'
    """
    base, over = (new, old) if old.final and not new.final else (old, new)
    said = {name: value for name in _NAMES if (value := getattr(over, name)) is not None}
    if old.more is not None and new.more is not None:
        said["more"] = _joined(old.more, new.more)
    return replace(base, **said, final=old.final or new.final, fields={**base.fields, **over.fields})


def _joined(one: tuple[int, str], other: tuple[int, str]) -> tuple[int, str]:
    """Two pieces of a text that streams as one; where something between them is missing, the first."""
    (at, text), (later, more) = sorted((one, other))
    if later > at + len(text):
        return at, text
    return at, text + more[at + len(text) - later :]


def usage_of(
    input_tokens: Any = None,
    output_tokens: Any = None,
    *,
    cache_read: Any = None,
    cache_write: Any = None,
    reasoning: Any = None,
    cache_beside: bool = False,
) -> dict[str, int] | None:
    """A usage as the protocol counts it; None where nothing is known.

    ``cache_beside``: this source counts cached tokens beside the input (as Anthropic's API does), not as part of it.

    >>> usage_of(10, 5, cache_read=90, cache_beside=True)
    {'input_tokens': 100, 'output_tokens': 5, 'cache_read_tokens': 90}
    """
    read, write = fit.count(cache_read), fit.count(cache_write)
    given = fit.count(input_tokens)
    if cache_beside and given is not None:
        given = min(given + (read or 0) + (write or 0), 10**9)
    counted = {
        "input_tokens": given,
        "output_tokens": fit.count(output_tokens),
        "cache_read_tokens": read,
        "cache_write_tokens": write,
        "reasoning_tokens": fit.count(reasoning),
    }
    return {part: count for part, count in counted.items() if count is not None} or None


def error_of(text: Any, kind: str | None = None, traceback: str | None = None) -> dict[str, Any]:
    """An error in the protocol's form. ``text`` may have Python's traceback behind the message, as some send it.

    >>> error_of("ZeroDivisionError('division by zero')Traceback (most recent call last): …")
    {'type': 'ZeroDivisionError', 'message': 'division by zero', 'traceback': 'Traceback (most recent call last): …'}
    """
    words = str(text)
    head, mark, rest = words.partition("Traceback (most recent call last)")
    if mark:
        words, traceback = head.strip(), traceback or mark + rest
        if not words:  # only a traceback: its last line is the error
            words = (mark + rest).strip().rpartition("\n")[2].strip()
    if kind is None:
        before, bracket, inside = words.partition("(")
        colon = words.partition(": ")
        if bracket and inside.endswith(")") and before.isidentifier():
            kind, words = before, inside[:-1].strip("'\"") or words
        elif colon[1] and colon[0].replace(".", "").isidentifier() and colon[0][:1].isupper():
            kind, words = colon[0], colon[2]
    error: dict[str, Any] = {"type": kind or "Error", "message": words}
    return {**error, "traceback": traceback} if traceback else error


def stamp(seconds: float | None) -> str | None:
    """A time of a source as the protocol writes it; None for one that can't be: before 2000, or after 9999."""
    if seconds is None or not EARLIEST <= seconds < 253_402_300_800:
        return None
    return format_time(seconds)


def made_plain(item: Item) -> Item:
    """The item with all its values as JSON holds them, for a mapping that could not promise it."""
    return replace(item, **{name: plain(getattr(item, name)) for name in (*_NAMES, "fields")})


def plain(value: Any, depth: int = 0) -> Any:
    """Any value as JSON holds it: bytes as hexadecimal, NaN and infinities as text, deep values as their text."""
    if isinstance(value, str):
        return value if value.isascii() else value.translate(SURROGATES)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**53) < value < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if depth >= DEEPEST:
        return repr(value)[:10_000]
    if isinstance(value, dict):
        return {plain(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    return str(value).translate(SURROGATES)
