"""The text that is looked for: words, phrases and prefixes, and how all text is cut into words for it.

Rule 1: a text is looked for by its words: letters and digits, in any case and without accents. What stands between
        words is no part of them, so ``src/session.py`` is three words in a row.
Rule 2: Chinese, Japanese and Korean are written without spaces, so each of their characters is a word. What is looked
        for in them is found wherever its characters stand in a row.
Rule 3: where a term occurs is found here the same way as by an index (``pattern``), but for accents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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

    def pattern(self) -> str:
        """A regular expression that finds it in a text as it was written."""
        first, last = self.words[0], self.words[-1]
        begin = "" if _EACH_ALONE.match(first) else f"(?<![^\\W_{_ALONE}])"
        end = "" if self.prefix or _EACH_ALONE.match(last) else f"(?![^\\W_{_ALONE}])"
        return begin + "[\\W_]*".join(map(re.escape, self.words)) + end

    def matches(self, text: str) -> bool:
        """Whether it occurs in a text."""
        return re.search(self.pattern(), text, re.IGNORECASE) is not None


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
    wanted = [term.pattern() for term in terms if not term.negative]
    found = re.search("|".join(wanted), text, re.IGNORECASE) if wanted else None
    begin = max(0, (found.start() if found else 0) - _BEFORE)
    if begin and (space := _SPACES.search(text, begin, begin + _BEFORE // 2)):
        begin = space.end()  # where a word begins
    end = max(begin + SNIPPET, found.end() if found else 0)
    piece = text[begin:end]
    parts = [] if not wanted else re.split(f"({'|'.join(f'(?:{one})' for one in wanted)})", piece, flags=re.IGNORECASE)
    parts = parts or [piece]
    parts[0] = ("… " if begin else "") + parts[0].lstrip()
    parts[-1] = parts[-1].rstrip() + (" …" if end < len(text) else "")
    return [_SPACES.sub(" ", part) for part in parts]


def positive(terms: Iterable[Term]) -> list[Term]:
    """Those of the terms that have to occur."""
    return [term for term in terms if not term.negative]
