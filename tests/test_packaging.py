"""Packaging: the wheel has the migrations and the page, and both an installed package and a checkout find theirs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tracewatch.log.sqlite.migrate import migrations_dir

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--wheel-dir", target, ROOT], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("tracewatch-*.whl")
    return built


def test_the_wheel_has_the_migrations_and_the_viewer(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "-z", "migrations"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:
        here = {name for name in tracked.stdout.split("\0") if name}
    else:  # an unpacked archive
        here = {str(p.relative_to(ROOT)) for p in (ROOT / "migrations").rglob("*") if p.is_file()}
    assert any(name.startswith("migrations/sqlite/0001_") for name in here)
    assert {f"tracewatch/{name}" for name in here} <= packed
    assert "tracewatch/py.typed" in packed
    assert "tracewatch/web/index.html" in packed
    assert any(re.fullmatch(r"tracewatch/web/index-.+\.js", name) for name in packed)
    assert not any("node_modules" in name or name.endswith(".tsx") for name in packed)


def test_a_checkout_finds_its_own_migrations() -> None:
    found = Path(str(migrations_dir()))
    assert found.is_relative_to(ROOT / "migrations")
    assert list(found.rglob("0001_*.sql"))


def test_an_installed_package_finds_those_it_brought(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from tracewatch.log.sqlite.migrate import migrations_dir; print(migrations_dir())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},  # before the checkout that is installed here
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = Path(done.stdout.strip())
    assert found.is_relative_to(tmp_path / "tracewatch" / "migrations")
    assert list(found.rglob("0001_*.sql"))
