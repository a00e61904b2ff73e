"""``tracewatch answer``: answer a question that a run has asked."""

from __future__ import annotations

from typing import Any

import click
import orjson

from ..client.api import Api
from ..model.canonical import TERMINAL
from . import text
from .common import CliError, by_option, examples, url_option
from .questions import send_answer, value_of
from .traces import TRACE_HELP, find_trace

EXAMPLES = examples("""
    tracewatch answer latest yes                     the only open question
    tracewatch answer 2f8d deploy "not before noon"  the question deploy
    tracewatch answer 2f8d --json '{"branch": "main", "days": 2}'
""")


@click.command(
    "answer",
    epilog=EXAMPLES,
    short_help="Answer a question of a run.",
    help="Answer a question that a run has asked; the first answer wins. REQUEST is the question's id or the beginning "
    f"of one, and may be left out where only one is open.\n\n{TRACE_HELP}",
)
@click.argument("trace")
@click.argument("request_and_value", nargs=-1, required=True, metavar="[REQUEST] VALUE")
@click.option("--json", "as_json", is_flag=True, help="VALUE is JSON. [else text, or the option it names]")
@by_option
@url_option
def command(trace: str, request_and_value: tuple[str, ...], as_json: bool, by: str | None, url: str | None) -> None:
    if len(request_and_value) > 2:
        raise CliError("too many words: put quotes around the answer")
    *named, typed = request_and_value
    value: Any = None
    if as_json:
        try:
            value = orjson.loads(typed)
        except orjson.JSONDecodeError as error:
            raise CliError(f"{text.one_line(typed)} is not JSON: {error}") from error
    api, found = find_trace(trace, url)
    question = _question(api, found["trace_id"], named[0] if named else None)
    send_answer(api, found["trace_id"], question, value if as_json else value_of(question, typed), by)
    click.echo(f"{found['trace_id']} {text.one_line(question['request_id'])} answered")


def _question(api: Api, trace_id: str, named: str | None) -> dict[str, Any]:
    """The open question that the user means. A named one that is not open is passed on, for the server to refuse."""
    pending: list[dict[str, Any]] = api.trace(trace_id)["pending_inputs"]
    if named is None:
        if not pending:
            raise CliError(f"{trace_id} has no open question (see: tracewatch inputs)")
        fitting = [one for one in pending if one.get("answerable") != TERMINAL] or pending
    else:
        fitting = [one for one in pending if one["request_id"] == named]
        fitting = fitting or [one for one in pending if one["request_id"].startswith(named)]
        if not fitting:
            return {"request_id": named}
    if len(fitting) > 1:
        listed = "\n".join("  " + text.one_line(f"{one['request_id']}  {one['question']}") for one in fitting)
        raise CliError(f"{trace_id} has {len(fitting)} open questions; which one?\n{listed}")
    return fitting[0]
