"""Hatch's build hook: builds the viewer into tracewatch/web, from where wheel and editable install serve it.

Rule: what is there already and was built from these very sources is not built again, so that a wheel made from an
      sdist needs no Node.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = Path("tracewatch", "web")
NOT_SOURCES = {"node_modules", "test", "biome.json", "__pycache__"}


def _node(root: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tracewatch_web_node", Path(root, "web", "node.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fingerprint(web: Path) -> str:
    """A hash over everything the built page depends on."""
    digest = hashlib.sha256()
    for path in sorted(p for p in web.rglob("*") if p.is_file()):
        name = path.relative_to(web)
        if NOT_SOURCES.isdisjoint(name.parts) and path.suffix not in (".py", ".md"):
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class ViewerBuildHook(BuildHookInterface[Any]):
    """Runs ``npm ci`` and Vite where the built viewer is missing or older than its sources."""

    def _current(self) -> bool:
        stamp = Path(self.root, BUILT, ".built")
        return stamp.is_file() and stamp.read_text() == fingerprint(Path(self.root, "web"))

    def dependencies(self) -> list[str]:
        """Node itself, where the PATH has none that will do."""
        node = _node(self.root)
        return [] if self._current() or node.on_path() else [node.REQUIREMENT]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the viewer."""
        if not self._current():
            _node(self.root).run("build")
            Path(self.root, BUILT, ".built").write_text(fingerprint(Path(self.root, "web")))
        build_data["artifacts"].append(f"{BUILT.as_posix()}/")
