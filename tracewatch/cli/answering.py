"""From what somebody types to the answer of a question. Pure.

Rule: what is typed is text unless the question itself says that it can't be: an option or a schema of another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from . import text
from .lines import readable

_LONGEST = 400  # cells of the choices


def choices(question: Mapping[str, Any]) -> str:
    """What may be answered, in one line; "" if that is anything."""
    options = question.get("options")
    if options:
        return text.cut(" / ".join(text.one_line(readable(option)) for option in options), _LONGEST)
    if question.get("schema"):
        return text.cut(f"JSON: {text.one_line(orjson.dumps(question['schema']).decode())}", _LONGEST)
    return ""


def value_of(question: Mapping[str, Any], typed: str) -> Any:
    """The answer that ``typed`` means: an option by its text (in any case), JSON for a schema, else the text itself."""
    options = question.get("options") or ()
    for same in (str.__eq__, lambda one, other: str.casefold(one) == str.casefold(other)):
        found = [option for option in options if same(readable(option), typed)]
        if len(found) == 1:
            return found[0]
    schema = question.get("schema")
    if schema and schema.get("type") != "string":
        try:
            return orjson.loads(typed)
        except orjson.JSONDecodeError:
            pass  # the server says what it should have been
    return typed


def chosen(question: Mapping[str, Any], typed: str) -> Any:
    """As ``value_of``; the number of an option will do as well, where that is not an option itself."""
    options = question.get("options") or ()
    value = value_of(question, typed)
    if value not in options and typed.isascii() and typed.isdigit() and 1 <= int(typed) <= len(options):
        return options[int(typed) - 1]
    return value
