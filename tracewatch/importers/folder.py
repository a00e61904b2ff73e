"""The files of a folder, read one after another.

Rule: a file that can't be read, or is none of these, is a fault by its name. The others are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import BadRequest
from .steps import ImportFault, NextFile, Step


def each(folder: Path, files: Iterable[Path], read: Callable[[Path, str], Iterator[Step]]) -> Iterator[Step]:
    """What ``read(file, name)`` tells of each file of ``folder``. ``name``: below the folder, for faults."""
    every = list(files)
    for number, file in enumerate(every, 1):
        name = str(file.relative_to(folder))
        yield NextFile(name, number, len(every))
        try:
            yield from read(file, name)
        except (BadRequest, OSError) as error:
            yield ImportFault(why_not(file, error), file=name)


def why_not(file: Path, error: BadRequest | OSError) -> str:
    """Why a file can't be read, without its path."""
    words = error.message if isinstance(error, BadRequest) else error.strerror or str(error)
    return words.removeprefix(f"{file}: ").removeprefix(f"{file} ")


def closed(folder: Path, below: Iterable[Path]) -> Iterator[ImportFault]:
    """A fault for each of these folders that may not be read. ``below``: ``folder`` or in it."""
    for one in below:
        try:
            next(one.iterdir(), None)
        except OSError as error:
            yield ImportFault(error.strerror or str(error), file=str(one.relative_to(folder)))
