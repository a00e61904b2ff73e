"""``@tracewatch.observe``: a function's calls become goals, tools or sub-traces of the run that they are made in.

Rule 1: the function is called as it would be, once, with the values that it was given; what it returns, yields and
        raises reaches its caller as it is.
Rule 2: arguments are copied before the call, within the limits of the recorder (``client/encode.py``); what goes into a
        goal or a trace's header is shortened further, because lists and trees hold it.
Rule 3: a generator's block is open while the generator's own code runs, and not in between, when its caller runs.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar, overload

from ..model.fit import PART_BYTES, shortened_text
from .encode import dumps, guarded, settled, words
from .handles import Goal, ToolCall, leave_here, opened_here
from .trace import Trace, current, trace

Kind = Literal["goal", "tool", "sub_trace"]
_KINDS = ("goal", "tool", "sub_trace")
Block = Goal | ToolCall | Trace
P = ParamSpec("P")
R = TypeVar("R")
_ARGUMENT_CHARS = 1000  # of one argument in a goal or a trace's metadata
_ARGUMENTS = 50  # in these
_SAID_CHARS = 60  # of one argument in a description
_CALL_CHARS = 300  # of a description
_SUMMARY_CHARS = 4000
_ITEMS = 1000  # of a generator, that are recorded as its result
_log = logging.getLogger("tracewatch")


@overload
def observe(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def observe(
    *, kind: Kind = "goal", name: str | None = None, capture_args: bool = True, capture_result: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def observe(
    function: Any = None,
    /,
    *,
    kind: Any = "goal",
    name: Any = None,
    capture_args: bool = True,
    capture_result: bool = True,
) -> Any:
    """Record each call of a function: its arguments, its result, and the exception that it raises.

    ``function``: a function, a method, an ``async def`` or a generator of either kind; the result has its signature.
    ``kind``: what a call becomes. ``goal``: a goal, with what happens in it below; the result is its summary. ``tool``:
    a tool's call with the whole result. ``sub_trace``: the run of a sub-agent. ``name``: by default the function's own.
    ``capture_args``, ``capture_result``: False keeps the values out of the log. ``self`` and ``cls`` are left out.

    Calls belong to the innermost trace that is open where they are made (``tracewatch.current``). Outside of all traces
    a ``sub_trace`` becomes a run of its own, as ``tracewatch.trace`` begins it; goals and tools are only called. So one
    function of a script, the agent, is a ``sub_trace``, and libraries may observe what they have without recording
    anything by themselves.

    Exceptions are recorded and reach the caller unchanged. A generator's items are its result, up to 1,000 of them and
    128 KiB; it ends with its last item, or when its caller leaves it. Raises TypeError for what is no function.

        @tracewatch.observe(kind="sub_trace")
        def research(topic: str) -> str:
            return read(find(topic))

        @tracewatch.observe(kind="tool", capture_result=False)
        async def fetch(url: str) -> bytes: ...
    """
    options = (kind, name, capture_args, capture_result)
    if function is None:
        return lambda given: _observed(given, *options)
    return _observed(function, *options)


def _observed(function: Any, kind: Any, name: Any, capture_args: bool, capture_result: bool) -> Any:
    if issubclass(type(function), (classmethod, staticmethod)):
        return type(function)(_observed(function.__func__, kind, name, capture_args, capture_result))
    if not callable(function) or inspect.isclass(function):
        raise TypeError("observe takes a function, as in @tracewatch.observe or @tracewatch.observe(kind='tool')")
    call = _Calls(function, kind, name, capture_args, capture_result)
    asked = function if inspect.isroutine(function) or isinstance(function, partial) else type(function).__call__
    if inspect.isasyncgenfunction(asked):
        return functools.wraps(function)(_async_generator(call))
    if inspect.isgeneratorfunction(asked):
        return functools.wraps(function)(_generator(call))
    if inspect.iscoroutinefunction(asked):
        return functools.wraps(function)(_coroutine(call))
    return functools.wraps(function)(_function(call))


class _Calls:
    """The calls of one observed function."""

    def __init__(self, function: Any, kind: Any, name: Any, capture_args: bool, capture_result: bool) -> None:
        self.function = function
        self.kind = kind if type(kind) is str and kind in _KINDS else "goal"
        if self.kind is not kind:
            _log.warning("observe: a call becomes one of %s, and not %s", ", ".join(_KINDS), words(kind, 100))
        given = getattr(function, "__name__", None) if name is None else name
        self.name = words(given, 200) if given is not None else type(function).__name__
        self.capture_args = capture_args
        self.capture_result = capture_result
        self._signature = guarded(lambda: inspect.signature(function), None)

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Block | None:
        """The block of a call; None where nothing records."""
        here = current()
        if here is None and self.kind != "sub_trace":
            return None
        given = self._arguments(args, kwargs) if self.capture_args else {}
        if self.kind == "tool" and here is not None:
            return here.tool_call(self.name, given or None)
        said, kept = _said(self.name, given) if self.capture_args else self.name, _brief(given)
        if self.kind == "goal" and here is not None:
            return here.goal(said, arguments=kept or None)
        metadata = {"arguments": kept} if kept else None
        if here is not None:
            return here.sub_trace(said, agent_type=self.name, metadata=metadata)
        return trace(said, agent_type=self.name, metadata=metadata)

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by their names, copied."""
        named = guarded(lambda: self._named(args, kwargs), None)
        copy = settled(({"args": args} if args else {}) | kwargs if named is None else named)
        return copy if isinstance(copy, dict) else {"args": copy}

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        if self._signature is None:
            return None
        named: dict[str, Any] = {}
        for place, (name, value) in enumerate(self._signature.bind(*args, **kwargs).arguments.items()):
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                named |= value
            elif place or name not in ("self", "cls"):
                named[name] = value
        return named

    def returned(self, block: Block, value: Any) -> None:
        """Record what a call has returned."""
        if not self.capture_result:
            return
        if isinstance(block, ToolCall):
            block.result(settled(value))
        elif value is not None:
            text = value if type(value) is str else guarded(lambda: dumps(value).decode(), "")
            summary = words(text, _SUMMARY_CHARS)
            if isinstance(block, Goal):
                block.complete(summary)
            else:
                block.summary = summary


def _said(name: str, given: dict[str, Any]) -> str:
    """A call in a line, with its short arguments."""
    parts: list[str] = []
    for key, value in list(given.items())[:_ARGUMENTS]:
        text = dumps(value).decode()
        parts.append(f"{key}={text if len(text) <= _SAID_CHARS else f'{text[: _SAID_CHARS - 1]}…'}")
    said = f"{name}({', '.join(parts)})"
    return said if len(said) <= _CALL_CHARS else f"{said[: _CALL_CHARS - 2]}…)"


def _brief(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, each of a bounded size."""
    brief: dict[str, Any] = {}
    for key, value in list(given.items())[:_ARGUMENTS]:
        text = value if type(value) is str else dumps(value).decode()
        short = len(text) <= _ARGUMENT_CHARS
        brief[words(key, 200)] = value if short else shortened_text(text, _ARGUMENT_CHARS)
    if len(given) > _ARGUMENTS:
        brief["…"] = f"{len(given) - _ARGUMENTS} more"
    return brief


# --- the four kinds of functions -----------------------------------------------------------------------------------


def _function(call: _Calls) -> Callable[..., Any]:
    def observed(*args: Any, **kwargs: Any) -> Any:
        block = call.begin(args, kwargs)
        if block is None:
            return call.function(*args, **kwargs)
        with block:
            value = call.function(*args, **kwargs)
            call.returned(block, value)
        return value

    return observed


def _coroutine(call: _Calls) -> Callable[..., Any]:
    async def observed(*args: Any, **kwargs: Any) -> Any:
        block = call.begin(args, kwargs)
        if block is None:
            return await call.function(*args, **kwargs)
        async with block:
            value = await call.function(*args, **kwargs)
            call.returned(block, value)
        return value

    return observed


def _generator(call: _Calls) -> Callable[..., Any]:
    def observed(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        block = call.begin(args, kwargs)
        if block is None:
            return (yield from call.function(*args, **kwargs))
        items, value = _Items(call.capture_result), None
        with _apart(block):
            inside = _only_within(block)
            generator = call.function(*args, **kwargs)
            step: Callable[[], Any] = partial(next, generator)
            while True:
                try:
                    with inside():
                        item = step()
                except StopIteration as end:
                    value = end.value
                    break
                items.add(item)
                try:
                    step = partial(generator.send, (yield item))
                except GeneratorExit:  # the caller has enough of it
                    with inside():
                        generator.close()
                    break
                except BaseException as error:
                    step = partial(generator.throw, error)
            call.returned(block, items.with_value(value))
        return value

    return observed


def _async_generator(call: _Calls) -> Callable[..., Any]:
    async def observed(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        block = call.begin(args, kwargs)
        items = _Items(call.capture_result and block is not None)
        async with nullcontext() if block is None else _apart(block):
            inside = nullcontext if block is None else _only_within(block)
            generator = call.function(*args, **kwargs)
            step: Callable[[], Any] = partial(generator.asend, None)
            while True:
                try:
                    with inside():
                        item = await step()
                except StopAsyncIteration:
                    break
                items.add(item)
                try:
                    step = partial(generator.asend, (yield item))
                except GeneratorExit:
                    with inside():
                        await generator.aclose()
                    break
                except BaseException as error:
                    step = partial(generator.athrow, error)
            if block is not None:
                call.returned(block, items.with_value(None))

    return observed


def _apart(block: Block) -> Block:
    """The block of a generator, before it is entered: what happens between the generator's steps is not part of it."""
    if isinstance(block, Goal):
        block.apart = True
    return block


def _only_within(block: Block) -> Callable[[], AbstractContextManager[None]]:
    """Leave a block here that was just entered; the result opens it for a step."""
    inside = opened_here()
    leave_here(block)
    return inside


class _Items:
    """The items of a generator, as its result: text that comes in pieces as one text, other items as a list."""

    def __init__(self, captured: bool) -> None:
        self._items: list[Any] = []
        self._bytes = PART_BYTES if captured else 0  # that there is room for
        self._texts = True
        self._more = 0

    def add(self, item: Any) -> None:
        """Keep a copy of an item, while there is room."""
        if self._bytes <= 0 or len(self._items) >= _ITEMS:
            self._more += 1
            return
        copy = settled(item)
        self._texts &= type(copy) is str
        self._items.append(copy)
        self._bytes -= len(copy) if type(copy) is str else len(dumps(copy))

    def with_value(self, value: Any) -> Any:
        """The items, beside the value that a generator returns with ``return``."""
        more = [f"… {self._more:,} more"] if self._more else []
        items: Any = [*self._items, *more]
        if self._texts and self._items:
            items = "".join(items)
        return items if value is None else {"yielded": items, "returned": value}
