"""A settings file of another program, into which something is merged: nothing of the user's is lost.

Rule 1: what can't be read as plain JSON is not touched. Comments, which JSON doesn't have, would be lost.
Rule 2: the file as it was stands beside it until what was merged is taken out again. Then, where nothing else has
        changed, those very bytes are put back.
Rule 3: it is replaced in one step, with its mode; a link stays a link. A change that somebody else made meanwhile is
        seen, and nothing is written over it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import Failed

BACKUP = ".before-tracewatch"
_INDENT = re.compile(r"^[ \t]+(?=\")", re.MULTILINE)


class SettingsFile:
    """The file at ``path``: ``read``, then ``write`` or ``put_back``. All raise Failed, with a line that says why."""

    def __init__(self, path: Path) -> None:
        self.named = path
        self.path = _behind_links(path)
        self._data: bytes | None = None  # as it was read; None: there is none

    @property
    def name(self) -> str:
        """The file as the user knows it, and what it leads to."""
        return str(self.named) if self.path == self.named else f"{self.named} (a link to {self.path})"

    @property
    def backup(self) -> Path:
        """Where the file as it was stands."""
        return self.path.with_name(self.path.name + BACKUP)

    def read(self) -> dict[str, Any]:
        """The settings, {} where there are none yet."""
        self._data = self._bytes(self.path)
        if self._data is None or not self._data.strip():
            return {}
        found = self._parsed(self._data)
        if not isinstance(found, dict):
            raise Failed(f"{self.name} holds no JSON object, so nothing was changed")
        return found

    def _bytes(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Failed(f"{self.name} can't be read: {error.strerror}") from error

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
        except UnicodeDecodeError as error:
            raise Failed(f"{self.name} is no UTF-8 text, so nothing was changed") from error
        except json.JSONDecodeError as error:
            hint = "; it has comments, which would be lost" if re.search(rb"^\s*(//|/\*)|,\s*[}\]]", data, re.M) else ""
            where = f"line {error.lineno}: {error.msg}"
            raise Failed(f"{self.name} is not plain JSON ({where}{hint}), so nothing was changed") from error
        except (ValueError, RecursionError) as error:
            raise Failed(f"{self.name} can't be read without loss ({error}), so nothing was changed") from error

    def write(self, settings: dict[str, Any], *, private: bool = False) -> None:
        """Write the settings, and the file as it was beside them. ``private``: nobody else may read them."""
        text = (self._data or b"").decode("utf-8-sig", "replace")
        found = _INDENT.search(text)
        body = json.dumps(settings, indent=found[0] if found else 2, ensure_ascii=False)
        self._check_writable()
        if self._data is not None and not self.backup.exists():
            self._replace(self.backup, self._data, self._mode(private))
        self._replace(self.path, f"{body}\n".encode("utf-8", "surrogatepass"), self._mode(private))

    def put_back(self, settings: dict[str, Any], alike: Callable[[dict[str, Any], dict[str, Any]], bool]) -> str:
        """Write settings from which was taken what was merged; what became of the file.

        ``alike``: whether two settings say the same.
        """
        self._check_writable()
        before = self._bytes(self.backup)
        if before is None and settings == {}:
            self.path.unlink(missing_ok=True)
            return "removed, as it held nothing else"
        if before is not None and alike({} if before.strip() == b"" else self._parsed(before), settings):
            self._replace(self.path, before, self._mode(False))
            self.backup.unlink()
            return "as it was before"
        self.write(settings)
        self.backup.unlink(missing_ok=True)
        return "cleaned; what you have changed since stays"

    def _mode(self, private: bool) -> int:
        if self._data is None:
            return 0o600
        mode = stat.S_IMODE(self.path.stat().st_mode)
        return mode & 0o700 if private else mode

    def _check_writable(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._data is not None and not self.path.stat().st_mode & 0o222:
                raise Failed(f"{self.name} is read-only, so nothing was changed (chmod u+w allows it)")
        except OSError as error:
            raise Failed(f"{self.name} can't be written: {error.strerror}") from error
        if self._bytes(self.path) != self._data:
            raise Failed(f"{self.name} was changed by another program just now: try again")

    def _replace(self, path: Path, data: bytes, mode: int) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                fresh.chmod(mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if hasattr(os, "geteuid") and os.geteuid() == 0 and self._data is not None:
                owner = self.path.stat()
                os.chown(fresh, owner.st_uid, owner.st_gid)
            fresh.replace(path)
        except OSError as error:
            raise Failed(f"{path} can't be written: {error.strerror}") from error
        finally:
            fresh.unlink(missing_ok=True)


def _behind_links(path: Path) -> Path:
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise Failed(f"{path} is a link that leads nowhere") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is in it twice")
    return found
