"""The text that is looked for: words, phrases and prefixes, and how all text is cut into words for it.

Rule 1: a text is looked for by its words: letters and digits, in any case and without accents. What stands between
        words is no part of them, so ``src/session.py`` is three words in a row.
Rule 2: Chinese, Japanese and Korean are written without spaces, so each of their characters is a word. What is looked
        for in them is found wherever its characters stand in a row.
Rule 3: where a term occurs is found here the same way as by an index (``spans``), but for accents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MOST_TERMS = 32
_ALONE = "\u2e80-\u2fdf\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"
_ALONE += "\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"  # characters that are words of their own
_EACH_ALONE = re.compile(f"([{_ALONE}])")
_WORDS = re.compile(f"[{_ALONE}]|(?:(?![{_ALONE}])[^\\W_])+")
SNIPPET = 160  # characters, about
_BEFORE = 48  # of them stand before what was found
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Term:
    """One thing to look for: its words, one after the other. ``prefix``: the last one may go on.

    >>> Term(("log", "in"), prefix=True).matches("log_inside")
    True
    """

    words: tuple[str, ...]
    prefix: bool = False
    negative: bool = False  # it must not occur

    def spans(self, text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Where it occurs in a text as it was written, or in a part of it."""
        words = re.compile("[\\W_]*".join(map(re.escape, self.words)), re.IGNORECASE)
        for match in words.finditer(text, begin, len(text) if end is None else end):
            first, last = match.span()
            if _ends(text[first - 1 : first], text[first]) and (
                self.prefix or _ends(text[last : last + 1], text[last - 1])
            ):
                yield first, last

    def matches(self, text: str) -> bool:
        """Whether it occurs in a text."""
        return next(self.spans(text), None) is not None


def _ends(beyond: str, inside: str) -> bool:
    """Whether a word ends between two characters."""
    return not beyond.isalnum() or _EACH_ALONE.match(beyond) is not None or _EACH_ALONE.match(inside) is not None


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, in their order.

    >>> words_of("src/session.py")
    ('src', 'session', 'py')
    """
    return tuple(_WORDS.findall(text))


def separated(text: str) -> str:
    """The text with spaces around each character that is a word of its own, for what finds words by spaces."""
    return text if text.isascii() else _EACH_ALONE.sub(r" \1 ", text)


def snippet_of(text: str, terms: Sequence[Term]) -> list[str]:
    """A piece of a text around what was found in it: plain, found, plain, found … Its spaces are single ones.

    >>> snippet_of("It says TypeError again", [Term(("typeerror",))])
    ['It says ', 'TypeError', ' again']
    """
    wanted = positive(terms)
    firsts = [span for term in wanted if (span := next(term.spans(text), None)) is not None]
    first, last = min(firsts, default=(0, 0))
    begin = max(0, first - _BEFORE)
    if begin and (space := _SPACES.search(text, begin, begin + _BEFORE // 2)):
        begin = space.end()  # where a word begins
    end = max(begin + SNIPPET, last)
    parts, at = [""], begin
    for first, last in sorted(span for term in wanted for span in term.spans(text, begin, min(end, len(text)))):
        if first >= at:
            parts[-1] += text[at:first]
            parts += [text[first:last], ""]
            at = last
    parts[-1] += text[at:end]
    parts[0] = ("… " if begin else "") + parts[0].lstrip()
    parts[-1] = parts[-1].rstrip() + (" …" if end < len(text) else "")
    return [_SPACES.sub(" ", part) for part in parts]


def positive(terms: Iterable[Term]) -> list[Term]:
    """Those of the terms that have to occur."""
    return [term for term in terms if not term.negative]
