"""The plain page: works under the strictest Content-Security-Policy and puts agents' words in as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[2] / "web"


def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline() -> None:
    html = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://|<script(?![^>]*\ssrc=)", html)
    named = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert named and all(
        name.startswith("/static/") and (WEB / name.removeprefix("/static/")).is_file() for name in named
    )


def test_the_script_never_writes_markup() -> None:
    script = (WEB / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_every_element_the_script_names_is_in_the_page() -> None:
    ids = set(re.findall(r'\$\("([^"]+)"\)', (WEB / "page.js").read_text()))
    assert ids and ids <= set(re.findall(r'id="([^"]+)"', (WEB / "index.html").read_text()))


@pytest.mark.parametrize("name", ["page.css", "page.js"])
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    assert not re.search(r"https?://|@import|url\(", (WEB / name).read_text())
