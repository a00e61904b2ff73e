"""The law of the layout: imports point one way, rooms use only their packages, files and functions stay readable.

The checker walks the syntax trees and is itself tested on made-up violations. ``ROOMS`` is the law: it and the picture
in ``docs/architecture.md`` change together.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tracewatch"
FILE_LINES = 700
LINE_CHARACTERS = 120
FUNCTION_LINES = 50  # without its docstring


@dataclass(frozen=True)
class Room:
    """What the modules of a room may import: other rooms, third-party packages, and rooms one module may use lazily."""

    rooms: frozenset[str]
    packages: frozenset[str] = frozenset()
    lazily: frozenset[tuple[str, str]] = frozenset()  # (module, room): only inside a function


def room(rooms: str = "", packages: str = "", *lazily: tuple[str, str]) -> Room:
    return Room(frozenset(rooms.split()), frozenset(packages.split()), frozenset(lazily))


ROOMS = {
    "errors": room(),
    "settings": room("errors"),
    "model": room("errors", "orjson pydantic typing_extensions"),
    "log": room("errors model", "aiosqlite genai_prices orjson"),
    "ingest": room("errors model log importers", "google opentelemetry orjson"),
    "live": room("errors model log", "orjson redis"),
    "server": room(
        "errors settings model log live ingest importers",
        "backports compression grpc jsonschema orjson prometheus_client pydantic_core referencing starlette uvicorn"
        " websockets",
    ),
    "client": room("errors settings model", "h11 orjson websockets", ("tracewatch.client.direct", "log")),
    "importers": room("errors model", "orjson"),
    "cli": room(
        "__init__ errors settings model log live ingest server client importers",
        "click orjson rich watchfiles websockets",
    ),
    "bootstrap": room(),  # goes into somebody else's program, whose environment has nothing of ours
    "__init__": room("errors settings model client"),
    "__main__": room("cli"),
}

# Server and command line code that `import tracewatch` in somebody's agent must not load; and pydantic, which takes
# longer to load than all of the recorder.
NOT_FOR_AGENTS = (
    *("aiosqlite", "click", "genai_prices", "grpc", "httpx2", "pydantic", "redis", "rich", "starlette", "uvicorn"),
    *("tracewatch.cli", "tracewatch.live", "tracewatch.log", "tracewatch.server"),
)


@dataclass(frozen=True)
class Import:
    """One imported dotted name; ``lazy`` when it runs inside a function, if at all."""

    name: str
    line: int
    lazy: bool


def imports_of(tree: ast.AST, package: str, lazy: bool = False) -> Iterator[Import]:
    """Every import below ``tree``, relative ones resolved against ``package``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(f"{stem}.{alias.name}", node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports_of(ast.Module(node.body, []), package, True)
            yield from imports_of(ast.Module(node.orelse, []), package, lazy)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(node, package, lazy or inside)


def room_of(name: str) -> str:
    """The room of a dotted name below tracewatch; the public names belong to ``__init__``."""
    second = [*name.split("."), ""][1]
    return second if second in ROOMS else "__init__"


def import_faults(path: Path, package_root: Path) -> list[str]:
    """What a module imports and may not, as ``file:line: room may not import name``."""
    module = ".".join(path.relative_to(package_root.parent).with_suffix("").parts)
    package = module.rpartition(".")[0]
    module = module.removesuffix(".__init__")
    here = path.relative_to(package_root).parts[0].removesuffix(".py")
    if here not in ROOMS:
        return [f"{path.relative_to(package_root.parent)}: no such room: {here}"]
    law, faults = ROOMS[here], []
    for found in imports_of(ast.parse(path.read_text()), package):
        top = found.name.partition(".")[0]
        if top == package_root.name:
            to = room_of(found.name)
            allowed = to == here or to in law.rooms or (found.lazy and (module, to) in law.lazily)
        else:
            allowed = top in sys.stdlib_module_names or top in law.packages
        if not allowed:
            faults.append(f"{path.relative_to(package_root.parent)}:{found.line}: {here} may not import {found.name}")
    return faults


def module_of(path: Path, package_root: Path) -> str:
    """A module's dotted name; a package's is its folder's."""
    return ".".join(path.relative_to(package_root.parent).with_suffix("").parts).removesuffix(".__init__")


def graph_of(paths: list[Path], package_root: Path) -> dict[str, set[str]]:
    """Which modules each module names in an import, inside functions and for type checkers as well.

    ``from .room import name`` leads to the module ``room.name`` where there is one, else to ``room``.
    """
    names = {module_of(path, package_root): path for path in paths}
    graph: dict[str, set[str]] = {}
    for module, path in names.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found = {one.name for one in imports_of(ast.parse(path.read_text()), package)}
        targets = {name if name in names else name.rpartition(".")[0] for name in found}
        graph[module] = (targets & names.keys()) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other by imports, each sorted."""
    reach = {module: _reached(graph, module) for module in graph}
    groups = {frozenset({module, *(other for other in reach[module] if module in reach[other])}) for module in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for target in graph[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen


def private_names(tree: ast.AST) -> set[str]:
    """The private names that a module makes: functions, attributes of ``self``, class attributes, slots."""
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            made.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            made.add(node.value)  # of __slots__
    return {name for name in made if is_private(name)}


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def foreign_private_names(paths: list[Path], package_root: Path) -> dict[str, set[str]]:
    """The private names that each file uses and that neither it nor a module it imports makes: another package's."""
    trees = {module_of(path, package_root): ast.parse(path.read_text()) for path in paths}
    made = {module: private_names(tree) for module, tree in trees.items()}
    graph = graph_of(paths, package_root)
    foreign: dict[str, set[str]] = {}
    for path in paths:
        module = module_of(path, package_root)
        used = {node.attr for node in ast.walk(trees[module]) if isinstance(node, ast.Attribute)}
        for found in imports_of(trees[module], module if path.name == "__init__.py" else module.rpartition(".")[0]):
            top, *rest = found.name.split(".")
            used |= {name for name in rest if top != package_root.name}
        ours = made[module].union(*(made[other] for other in graph[module]))
        if names := {name for name in used if is_private(name)} - ours:
            foreign[str(path.relative_to(package_root))] = names
    return foreign


def classes(paths: list[Path], package_root: Path) -> dict[str, list[str]]:
    """The modules that define each class at their top level, by the class's name. A private name is its file's own."""
    homes: dict[str, list[str]] = {}
    for path in paths:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not is_private(node.name):
                homes.setdefault(node.name, []).append(module_of(path, package_root))
    return homes


def size_faults(path: Path, package_root: Path) -> list[str]:
    """Missing module docstring, too long a file, too long functions."""
    text, name = path.read_text(), path.relative_to(package_root.parent)
    tree = ast.parse(text)
    faults = [] if ast.get_docstring(tree) else [f"{name}: no module docstring"]
    if (lines := len(text.splitlines())) > FILE_LINES:
        faults.append(f"{name}: {lines} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node) is not None else None
            lines = (node.end_lineno or 0) - node.lineno + 1
            lines -= (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
            if lines > FUNCTION_LINES:
                faults.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    return faults


def long_lines(text: str) -> list[int]:
    """The numbers of the lines with more than LINE_CHARACTERS characters."""
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > LINE_CHARACTERS]


def modules(package_root: Path = PACKAGE) -> list[Path]:
    return sorted(package_root.rglob("*.py"))


def test_imports_point_one_way() -> None:
    assert len(modules()) > 2
    faults = [fault for path in modules() for fault in import_faults(path, PACKAGE)]
    assert not faults, "\n".join(faults)


def test_no_imports_go_in_a_circle() -> None:
    assert circles(graph_of(modules(), PACKAGE)) == []


def test_private_names_of_other_packages_are_used_nowhere() -> None:
    assert foreign_private_names(modules(), PACKAGE) == {}


def test_only_one_file_knows_uvicorn() -> None:
    """It leans on parts of it that are not documented, for which pyproject.toml caps the version."""
    found = {
        module_of(path, PACKAGE)
        for path in modules()
        for one in imports_of(ast.parse(path.read_text()), "tracewatch")
        if one.name.partition(".")[0] == "uvicorn"
    }
    assert found == {"tracewatch.server.uvicorn"}
    assert re.search(r'"uvicorn>=[^"]*,<', (ROOT / "pyproject.toml").read_text())


def test_a_class_name_names_one_thing() -> None:
    homes = classes(modules(), PACKAGE)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_modules_say_what_they_are_and_fit_a_reader() -> None:
    faults = [fault for path in modules() for fault in size_faults(path, PACKAGE)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("folder", ["tracewatch", "tests", "benchmarks"])
def test_no_line_is_longer_than_a_reader_can_follow(folder: str) -> None:
    """The linter leaves out lines that end in a comment for it, or have no blank."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert [f"{path}:{number}" for path in paths for number in long_lines(path.read_text())] == []


def test_every_package_a_room_may_use_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    lines = [*project["dependencies"], *extras]
    declared = {re.split(r"[^a-z0-9_-]", line, maxsplit=1)[0].replace("-", "_") for line in lines}
    named = {"google": "protobuf", "opentelemetry": "opentelemetry_proto", "compression": "backports", "grpc": "grpcio"}
    used = {named.get(package, package) for law in ROOMS.values() for package in law.packages}
    assert used <= declared


def test_top_level_holds_what_it_should() -> None:
    """Tracked files only: a checkout may have caches, databases and its .venv beside them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs git and a checkout: an unpacked archive has no list of tracked files")
    assert {name.partition("/")[0] for name in listed.stdout.split("\0") if name} <= {
        *(".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "benchmarks", "docs"),
        *("migrations", "pyproject.toml", "tests", "tracewatch", "web"),
    }


# --- what `import tracewatch` costs an agent -------------------------------------------------------------------


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Each public name is loaded when it is first used.
IMPORT_ALL = "import tracewatch; [getattr(tracewatch, name) for name in tracewatch.__all__]"


def test_import_loads_no_server_code() -> None:
    loaded = python(f"{IMPORT_ALL}; import sys; print(*(n for n in {NOT_FOR_AGENTS!r} if n in sys.modules))")
    assert loaded == ""


def test_import_works_without_what_only_the_server_and_the_extras_need() -> None:
    absent = [name for name in NOT_FOR_AGENTS if "." not in name] + ["prometheus_client", "httpx", "uvloop"]
    python(f"import sys; sys.modules.update(dict.fromkeys({absent!r})); {IMPORT_ALL}")


# --- the checker bites -----------------------------------------------------------------------------------------


def made_up(tmp_path: Path, name: str, text: str) -> tuple[Path, Path]:
    path = tmp_path / "tracewatch" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path, tmp_path / "tracewatch"


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("model/goals.py", "from tracewatch.log import open_log", "model may not import tracewatch.log.open_log"),
        ("model/goals.py", "import tracewatch.live.hub", "model may not import tracewatch.live.hub"),
        ("model/__init__.py", "from ..log import sqlite", "model may not import tracewatch.log.sqlite"),
        ("model/goals.py", "from .. import log", "model may not import tracewatch.log"),
        ("log/sqlite/log.py", "from tracewatch import live", "log may not import tracewatch.live"),
        ("live/hub.py", "def f():\n    from tracewatch.server import app", "live may not import tracewatch.server.app"),
        ("server/app.py", "import tracewatch", "server may not import tracewatch"),
        ("server/app.py", "from tracewatch import watch", "server may not import tracewatch.watch"),
        (
            "importers/tapes.py",
            "from tracewatch.client import trace",
            "importers may not import tracewatch.client.trace",
        ),
        ("client/direct.py", "from tracewatch.log import open_log", "client may not import tracewatch.log.open_log"),
        ("client/watch.py", "def f():\n    import tracewatch.log", "client may not import tracewatch.log"),
        ("errors.py", "from tracewatch.settings import Settings", "errors may not import tracewatch.settings.Settings"),
        ("log/sqlite/log.py", "import starlette.requests", "log may not import starlette.requests"),
        ("client/watch.py", "try:\n    import httpx\nexcept ImportError:\n    pass", "client may not import httpx"),
        ("live/hub.py", "async def f():\n    if 1:\n        import aiosqlite", "live may not import aiosqlite"),
        (
            "live/hub.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from tracewatch.cli import main",
            "live may not import tracewatch.cli.main",
        ),
        ("utils/misc.py", "", "no such room: utils"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, name: str, text: str, fault: str) -> None:
    faults = import_faults(*made_up(tmp_path, name, text))
    assert len(faults) == 1
    assert faults[0].endswith(fault)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("client/direct.py", "def f():\n    from tracewatch.log import open_log"),
        (
            "client/direct.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tracewatch.log import EventLog",
        ),
        (
            "log/sqlite/log.py",
            "import sqlite3, aiosqlite\nfrom . import migrate\nfrom ...model import events\nimport tracewatch.errors",
        ),
        (
            "cli/demo.py",
            "import tracewatch\nfrom tracewatch import trace\nfrom tracewatch.server.app import create_app",
        ),
    ],
)
def test_a_right_import_is_not(tmp_path: Path, name: str, text: str) -> None:
    assert import_faults(*made_up(tmp_path, name, text)) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    texts = {
        "live/a.py": "from .b import x",
        "live/b.py": "from . import c",
        "live/c.py": "def f():\n    import tracewatch.live.a",
        "live/d.py": "from .a import y",
        "live/__init__.py": "",
    }
    paths = [made_up(tmp_path, name, text)[0] for name, text in texts.items()]
    found = circles(graph_of(paths, tmp_path / "tracewatch"))
    assert found == [["tracewatch.live.a", "tracewatch.live.b", "tracewatch.live.c"]]


def test_a_private_name_of_another_package_is_found(tmp_path: Path) -> None:
    texts = {
        "log/a.py": "def f(connection):\n    return connection._conn",
        "log/b.py": "class B:\n    def __init__(self):\n        self._mine = 1\n        self._mine += 1",
        "log/c.py": "from .b import B\n\n\ndef f(b: B):\n    return b._mine",
        "log/d.py": "from orjson import _hidden",
    }
    paths = [made_up(tmp_path, name, text)[0] for name, text in texts.items()]
    found = foreign_private_names(paths, tmp_path / "tracewatch")
    assert found == {"log/a.py": {"_conn"}, "log/d.py": {"_hidden"}}


def test_a_class_name_that_is_there_twice_is_found(tmp_path: Path) -> None:
    texts = {
        "log/a.py": "class Plan:\n    class Step: ...\n\n\nclass _Row: ...",
        "live/b.py": "class Plan: ...\n\n\nclass Step: ...\n\n\nclass _Row: ...",
    }
    paths = [made_up(tmp_path, name, text)[0] for name, text in texts.items()]
    homes = classes(paths, tmp_path / "tracewatch")
    assert homes == {"Plan": ["tracewatch.log.a", "tracewatch.live.b"], "Step": ["tracewatch.live.b"]}


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    body = "    x = 1\n"
    long = f'"""Doc."""\n\n\nasync def f():\n{body * FUNCTION_LINES}'
    assert size_faults(*made_up(tmp_path, "model/a.py", long)) == ["tracewatch/model/a.py:4: f has 51 lines"]
    fits = f'"""Doc."""\n\n\ndef f():\n    """One.\n\n    Two."""\n{body * (FUNCTION_LINES - 1)}'
    assert size_faults(*made_up(tmp_path, "model/b.py", fits)) == []
    assert size_faults(*made_up(tmp_path, "model/c.py", "# only\n" * 701)) == [
        "tracewatch/model/c.py: no module docstring",
        "tracewatch/model/c.py: 701 lines",
    ]
