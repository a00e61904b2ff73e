"""A run's questions: the possible answers to one, the meaning of what somebody types, and sending the answer.

Rule: typed words are text, unless the question has options or a schema of another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from ..client.api import Api
from ..client.errors import ApiError
from . import text
from .common import CliError
from .lines import readable

_LONGEST = 400  # cells of the choices
_REFUSALS = {  # by the code of the error
    "already_answered": "somebody else has answered it already",
    "expired": "too late: it has expired",
    "not_answerable": "only the agent's own terminal can answer it",
    "not_running": "too late: its run has ended",
    "unknown_request": "no such question was asked",
}


def choices(question: Mapping[str, Any]) -> str:
    """The possible answers, in one line; "" if any answer will do."""
    options = question.get("options")
    if question.get("answerable") == "terminal":
        return "to be answered in the agent's own terminal"
    if options:
        return text.cut(" / ".join(text.one_line(readable(option)) for option in options), _LONGEST)
    if question.get("schema"):
        return text.cut(f"JSON: {text.one_line(orjson.dumps(question['schema']).decode())}", _LONGEST)
    return ""


def value_of(question: Mapping[str, Any], typed: str) -> Any:
    """The answer that ``typed`` means: the option with this text in any case, JSON for a schema, else the text."""
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
            pass  # the server's refusal says what was expected
    return typed


def chosen(question: Mapping[str, Any], typed: str) -> Any:
    """As ``value_of``, and also an option by its number, counted from 1, unless that number is itself an option."""
    options = question.get("options") or ()
    value = value_of(question, typed)
    if value not in options and typed.isascii() and typed.isdigit() and 1 <= int(typed) <= len(options):
        return options[int(typed) - 1]
    return value


def send_answer(api: Api, trace_id: str, question: dict[str, Any], value: Any, by: str | None) -> None:
    """Answer a question. Raises CliError, whose one line says why that was not possible, and Unreachable."""
    try:
        api.answer(trace_id, question["request_id"], value, by)
    except ApiError as error:
        name = text.one_line(question["request_id"])
        if error.code == "invalid_value":
            offered = choices(question)
            hint = f" (it wants {offered})" if offered else ""
            raise CliError(f"this does not answer {name}: {error.message}{hint}") from error
        if error.code in _REFUSALS:
            raise CliError(f"{name}: {_REFUSALS[error.code]}") from error
        raise
