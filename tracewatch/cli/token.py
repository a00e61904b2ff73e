"""``tracewatch token create | list | revoke``: manage the tokens of a database file, with or without a running server.

Rule: a token is printed once, when it is made. The file holds only its hash.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson
from rich.table import Table
from rich.text import Text

from ..errors import InvalidField
from ..model.times import format_time
from ..settings import Settings
from . import text, times
from .common import CliError, examples, now, out_console

if TYPE_CHECKING:
    from ..log.tokens import Token, Tokens

T = TypeVar("T")
SCOPES = ("read", "write", "control", "admin")  # log/tokens.py has them too: the log is loaded only to be opened
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_STYLES = {"active": "green", "expired": "yellow", "revoked": "red"}

CREATE = examples("""
    tracewatch token create --scope admin --label ann               all there is to do
    tracewatch token create --scope write --expires 30d             for agents that record
    tracewatch token create --scope read --scope control --trace 2f8d   one run: watch it, answer it, stop it
    export TRACEWATCH_TOKEN=$(tracewatch token create --scope read)
""")
REVOKE = examples("""
    tracewatch token list
    tracewatch token revoke 3f9a0c51d2e7
""")


class _Age(click.ParamType[float]):
    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]{1,9})([smhdw])", str(value), re.ASCII)
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is no time such as 12h, 30d or 8w", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


_db = click.option("--db", metavar="FILE", help="The database file. [TRACEWATCH_DB, else tracewatch.db]")


@click.group("token")
def command() -> None:
    """Make, list and revoke the tokens that give access to a server.

    The commands work on the database file, also while servers use it, and take effect at once. As soon as a first
    token was created, every server on the file asks for one, on this machine too.
    """


@command.command("create", epilog=CREATE)
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True,
              help="read: list and watch. write: record and import. control: cancel and answer. "
                   "admin: all of these, and delete. May be given several times.")  # fmt: skip
@click.option("--trace", "trace_id", metavar="TRACE_ID", help="Valid for this trace and its sub-traces only.")
@click.option("--expires", "expires_in_s", type=_Age(), help="Valid for this long: 12h, 30d, 8w. [for ever]")
@click.option("--label", default="", metavar="TEXT", help="A note for the list of tokens.")
@_db
def create(
    scopes: tuple[str, ...], trace_id: str | None, expires_in_s: float | None, label: str, db: str | None
) -> None:
    """Make a token and print it. It can't be shown again."""
    path = _path(db)

    async def made(tokens: Tokens) -> str:
        return await tokens.create(scopes, trace_id=trace_id, expires_in_s=expires_in_s, label=label)

    token = _run(path, made)
    click.echo(token)
    click.echo(f"made for {path}; it is not shown again. Clients take it from TRACEWATCH_TOKEN", err=True)


@command.command("list", epilog=REVOKE)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_db
def list_tokens(as_json: bool, db: str | None) -> None:
    """List every token that was ever made, without its secret."""

    async def listed(tokens: Tokens) -> list[Token]:
        return await tokens.made()

    found = [_shown(token) for token in _run(_path(db, must_exist=True), listed)]
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    console = out_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ID", "STATUS", "SCOPES", "TRACE", "CREATED", "EXPIRES", "LABEL"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(
            one["token_id"],
            Text(one["status"], style=_STYLES[one["status"]]),
            " ".join(one["scopes"]),
            one["trace_id"] or "",
            times.shown(one["created_at"], on_terminal=console.is_terminal),
            one["expires_at"] and times.shown(one["expires_at"], on_terminal=console.is_terminal),
            Text(text.escape(one["label"])),
        )
    if found:
        console.print(table)
    else:
        click.echo("no token was ever made: everybody on this machine may do all", err=True)


@command.command("revoke", epilog=REVOKE)
@click.argument("token_id")
@_db
def revoke(token_id: str, db: str | None) -> None:
    """Refuse a token from now on. Sockets opened with it are closed within 5 seconds."""
    if token_id.startswith("tw_"):  # the token itself was given: its id is the second part
        token_id = token_id.split("_")[1]

    async def revoked(tokens: Tokens) -> bool:
        return await tokens.revoke(token_id)

    done = _run(_path(db, must_exist=True), revoked)
    click.echo(f"{text.escape(token_id)} {'is revoked' if done else 'was revoked already'}", err=True)


def _path(db: str | None, *, must_exist: bool = False) -> str:
    try:
        path = Settings.from_env(os.environ, only=("db",), db=db).db
    except InvalidField as error:
        raise CliError(error.message) from error
    if must_exist and "://" not in path and not Path(path).exists():
        raise CliError(f"there is no database {path} (--db or TRACEWATCH_DB names another)")
    return path


def _run(path: str, work: Callable[[Tokens], Awaitable[T]]) -> T:
    async def opened() -> T:
        from ..log import open_log

        log = await open_log(path)
        try:
            return await work(log.tokens)
        finally:
            await log.close()

    return asyncio.run(opened())


def _shown(token: Token) -> dict[str, Any]:
    return {
        "token_id": token.token_id,
        "status": token.status(now()),
        "scopes": [scope for scope in SCOPES if scope in token.scopes],
        "trace_id": token.trace_id,
        "label": token.label,
        "created_at": token.created_at,
        "expires_at": None if token.expires_at is None else format_time(token.expires_at),
        "revoked_at": token.revoked_at,
    }
