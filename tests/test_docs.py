"""The documents hold together: links lead somewhere, and the contract can be read in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "web" / "README.md"]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text())
    for path, anchor in links:
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} is not there"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{path}#{anchor} is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_lines_of_prose_fit(page: Path) -> None:
    """A row of a table is one line, and so is a line of code."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 150 and not line.startswith("|")] == []


def test_the_contract_has_a_table_of_contents_and_lines_that_fit() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    listed = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert anchors(text) - listed == {"the-tracewatch-protocol-version-1"}
    assert [line for line in text.splitlines() if len(line) >= 160] == []
