"""What the blocks of a recorder have in common: ``with`` and ``async with``, and knowing which of them are open here.

A goal, a message, a tool call, a trace and a cancel scope are blocks. None of them waits for anything when it is
entered or left.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Generic, Self, TypeVar

Block = TypeVar("Block")


class SyncOrAsync:
    """``async with`` for what has ``with``: both do the same."""

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.__exit__(kind, error, trace)


class OpenBlocks(Generic[Block]):
    """The blocks of one kind that are open in the current thread or task, outermost first."""

    def __init__(self, name: str) -> None:
        self._open: ContextVar[tuple[Block, ...]] = ContextVar(name, default=())

    def all(self) -> tuple[Block, ...]:
        """Those open here."""
        return self._open.get()

    def enter(self, block: Block) -> None:
        """A block is entered."""
        self._open.set((*self._open.get(), block))

    def leave(self, block: Block) -> None:
        """A block is left; it may not be the innermost.

        Nothing is done by a token: a generator or task may leave in another context than it entered in.
        """
        self._open.set(tuple(one for one in self._open.get() if one is not block))
