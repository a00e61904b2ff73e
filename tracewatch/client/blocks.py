"""The blocks of a recorder: they work with ``with`` and ``async with``, and know which of them are open here.

A goal, a message, a tool call, a trace and a cancel scope are blocks. Entering or leaving one never waits.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Self, TypeVar

Block = TypeVar("Block")


class SyncOrAsync:
    """Gives a class with ``with`` an ``async with`` that does the same."""

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.__exit__(kind, error, trace)


class RecordedBlock(SyncOrAsync):
    """A block whose begin and end are recorded, in the process that has entered it.

    A child that is forked within the block leaves it as well, which ends nothing. And an exception of a signal handler
    in the middle of entering or leaving leaves no block half open.
    """

    _process = 0  # that has entered it

    def __enter__(self) -> Self:
        self._process = os.getpid()
        try:
            self._enter()
            return self
        except BaseException as error:
            self.__exit__(type(error), error, None)  # `with` does not do this
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            self._left(error)
        except BaseException:
            self._left(error)
            raise

    def _left(self, error: BaseException | None) -> None:
        if self._process == os.getpid():
            self._leave(error)
        else:
            self._leave_in_child(error)

    def _enter(self) -> None:
        """Record the begin."""
        raise NotImplementedError

    def _leave(self, error: BaseException | None) -> None:
        """Record the end; called a second time if a signal handler has raised in the middle of the first."""
        raise NotImplementedError

    def _leave_in_child(self, error: BaseException | None) -> None:
        """Leave in a forked child, where the block ends only for those who look which blocks are open."""


class OpenBlocks(Generic[Block]):
    """The blocks of one kind that are open in the current thread or task, outermost first."""

    def __init__(self, name: str) -> None:
        self._open: ContextVar[tuple[Block, ...]] = ContextVar(name, default=())

    def all(self) -> tuple[Block, ...]:
        """The blocks that are open here."""
        return self._open.get()

    def enter(self, block: Block) -> None:
        """Note that a block is entered."""
        self._open.set((*self._open.get(), block))

    def leave(self, block: Block) -> None:
        """Note that a block is left, which may not be the innermost one.

        Context variables' tokens are of no use here: a generator or task may leave in another context than it entered.
        """
        blocks = self._open.get()
        innermost = bool(blocks) and blocks[-1] is block
        self._open.set(blocks[:-1] if innermost else tuple(one for one in blocks if one is not block))

    @contextmanager
    def instead(self, blocks: tuple[Block, ...]) -> Iterator[None]:
        """Have these open here, for a while."""
        before = self._open.get()
        self._open.set(blocks)
        try:
            yield
        finally:
            self._open.set(before)


# The traces that are open here. Everything that takes open goals along takes these along.
open_traces: OpenBlocks[Any] = OpenBlocks("tracewatch_open_traces")

# The steps that are open here, likewise.
open_steps: OpenBlocks[Any] = OpenBlocks("tracewatch_open_steps")


def current_step(journal: object) -> str | None:
    """The id of the trace's innermost step that is open in this thread or task."""
    return next((step.id for step in reversed(open_steps.all()) if step.journal is journal), None)


def here() -> tuple[int, object]:
    """The current thread and its current task of asyncio or trio: a block that is entered is open in these."""
    try:
        task: object = asyncio.current_task()
    except RuntimeError:  # no loop of asyncio's runs
        task = None
    if task is None:
        trio = trio_here()
        task = None if trio is None else trio.lowlevel.current_task()
    return threading.get_ident(), task


def trio_here() -> Any:
    """The module ``trio``, if one of its tasks runs here; else None. Nobody has to have it."""
    trio = sys.modules.get("trio")
    try:
        if trio is not None and trio.lowlevel.current_task() is not None:
            return trio
    except (AttributeError, RuntimeError):
        pass  # it is being imported; or no loop of trio's runs here
    return None
