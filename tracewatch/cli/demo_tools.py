"""The demo agent's tools: they answer questions about the files of one folder.

Rule 1: they only read, and only inside the folder. Hidden and generated files and files without text are left out.
Rule 2: answers are small, because they become events.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_FILES = 2000
MAX_BYTES = 1 << 20  # the largest file that is read
_SKIPPED = {"__pycache__", "node_modules", "venv", "build", "dist", "site-packages"}


class Workshop:
    """The tools, working on the files of ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._texts: dict[str, str] = {}

    def list_files(self, pattern: str = "*") -> list[str]:
        """The names of the files, relative to the folder and sorted."""
        found = []
        for path in sorted(self.folder.rglob(pattern)):
            parts = path.relative_to(self.folder).parts
            if path.is_file() and not any(part.startswith(".") or part in _SKIPPED for part in parts):
                found.append("/".join(parts))
            if len(found) >= MAX_FILES:
                break
        return found

    def read_file(self, name: str, first: int = 1, last: int | None = None) -> str:
        """Lines ``first`` to ``last`` of a file. Raises OSError or ValueError if it is no text file of the folder."""
        return "\n".join(self._text(name).splitlines()[first - 1 : last])

    def count_lines(self) -> dict[str, dict[str, int]]:
        """Files and lines by suffix, most lines first."""
        counts: dict[str, dict[str, int]] = {}
        for name, text in self._all():
            row = counts.setdefault(Path(name).suffix or "(none)", {"files": 0, "lines": 0})
            row["files"] += 1
            row["lines"] += text.count("\n")
        return dict(sorted(counts.items(), key=lambda item: -item[1]["lines"]))

    def largest(self, count: int = 5, suffix: str = ".py") -> list[dict[str, Any]]:
        """The files with the most lines."""
        rows = [{"file": name, "lines": text.count("\n")} for name, text in self._all(suffix)]
        return sorted(rows, key=lambda row: -int(str(row["lines"])))[:count]

    def grep(self, pattern: str, suffix: str = "", limit: int = 20) -> dict[str, Any]:
        """Lines that match, as ``file:line: text``."""
        compiled, total = re.compile(pattern), 0
        matches: list[str] = []
        for name, text in self._all(suffix):
            for number, line in enumerate(text.splitlines(), 1):
                if compiled.search(line):
                    total += 1
                    if len(matches) < limit:
                        matches.append(f"{name}:{number}: {line.strip()[:160]}")
        return {"total": total, "matches": matches}

    def outline(self, name: str) -> dict[str, Any]:
        """Classes and functions of a Python file, its longest function, the first line of its docstring."""
        tree = ast.parse(self._text(name))
        functions = [(node.name, _lines(node)) for node in _functions(tree)]
        longest = max(functions, key=lambda pair: pair[1], default=None)
        doc = (ast.get_docstring(tree) or "").partition("\n")[0]
        return {
            "classes": [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)][:20],
            "functions": len(functions),
            "longest": {"name": longest[0], "lines": longest[1]} if longest else None,
            "docstring": doc,
        }

    def longest_functions(self, count: int = 5) -> list[dict[str, Any]]:
        """The functions with the most lines."""
        rows = [
            {"function": node.name, "file": name, "line": node.lineno, "lines": _lines(node)}
            for name, tree in self._trees()
            for node in _functions(tree)
        ]
        return sorted(rows, key=lambda row: -int(str(row["lines"])))[:count]

    def most_imported(self, count: int = 8) -> dict[str, int]:
        """The top-level modules that most files import, each with the number of these files."""
        imported: Counter[str] = Counter()
        for _, tree in self._trees():
            names: set[str] = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.partition(".")[0])
            imported.update(names - {"__future__"})
        return dict(imported.most_common(count))

    def undocumented(self) -> dict[str, Any]:
        """Public functions and classes without a docstring, and modules without one."""
        missing, total, modules = [], 0, []
        for name, tree in self._trees():
            if not ast.get_docstring(tree):
                modules.append(name)
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
                    total += 1
                    if not ast.get_docstring(node):
                        missing.append(f"{name}:{node.lineno} {node.name}")
        return {"public": total, "without": len(missing), "first": missing[:8], "modules_without": modules[:8]}

    # --- files ---

    def _text(self, name: str) -> str:
        if name not in self._texts:
            path = (self.folder / name).resolve()
            if not path.is_relative_to(self.folder):
                raise ValueError(f"{name} is outside {self.folder.name}")
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"{name} is larger than {MAX_BYTES:,} bytes")
            text = path.read_text(encoding="utf-8")
            if "\0" in text:
                raise ValueError(f"{name} is not text")
            self._texts[name] = text
        return self._texts[name]

    def _all(self, suffix: str = "") -> Iterator[tuple[str, str]]:
        for name in self.list_files(f"*{suffix}"):
            try:
                text = self._text(name)
            except (OSError, ValueError):
                continue  # not text, or gone
            yield name, text

    def _trees(self) -> Iterator[tuple[str, ast.Module]]:
        for name, text in self._all(".py"):
            try:
                tree = ast.parse(text)
            except (SyntaxError, ValueError):
                continue
            yield name, tree


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1
