"""``tracewatch install``: let a coding agent tell a server of its sessions, and ask there for permissions."""

from __future__ import annotations

import http.client
import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import click

from ..client.api import Api
from ..importers.sessions import claude_home, codex_home
from . import text
from .common import CliError, Failed, examples
from .hook_settings import EVENTS, merged, obstacles
from .settings_file import SettingsFile

EXAMPLES = examples("""
    tracewatch install claude-code                   all sessions of this user, from the next one on
    tracewatch install claude-code --project         those in this folder only
    tracewatch install claude-code --print           what would be written, and nothing is
    tracewatch install claude-code --hold 30m        a permission may be answered here for half an hour
    tracewatch install claude-code --url https://watch.example.org --token-env TRACEWATCH_TOKEN
    tracewatch install codex                         Codex asks once whether its hooks are trusted
    tracewatch uninstall claude-code
""")
HOLD_S = {"claude-code": 600, "codex": 30}  # Codex shows no dialog of its own before its hook has ended
MOST_HOLD_S = 86_400
LOOK_S = 3.0  # to look whether the server is there
_UNITS = {"s": 1, "m": 60, "h": 3600}
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)


class _Hold(click.ParamType[int]):
    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,6})([smh]?)", str(value), re.ASCII)
        seconds = int(found[1]) * _UNITS[found[2] or "s"] if found else -1
        if not 0 <= seconds <= MOST_HOLD_S:
            self.fail(f"{value!r} is no time such as 90s, 10m or 2h, up to 24h", param, ctx)
        return seconds


def settings_of(agent: str, *, project: bool, named: Path | None) -> Path:
    """The settings file that is meant. Raises CliError."""
    if named is not None:
        return named
    if project:
        return Path(".claude/settings.local.json") if agent == "claude-code" else Path(".codex/hooks.json")
    home = claude_home() if agent == "claude-code" else codex_home()
    if home is None:
        raise CliError("this user has no home: name the file with --settings")
    return home / ("settings.json" if agent == "claude-code" else "hooks.json")


agent_argument = click.argument("agent", type=click.Choice(list(EVENTS)))
project_option = click.option("--project", is_flag=True, help="The settings of this folder, not the user's.")
settings_option = click.option(
    "--settings", "named", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="This settings file."
)


@click.command("install", epilog=EXAMPLES, short_help="Let a coding agent tell of its sessions, live.")
@agent_argument
@project_option
@settings_option
@click.option("--hold", type=_Hold(), help="A permission waits here so long; 0: not at all. [10m; for codex 30s]")
@click.option("--token-env", metavar="NAME", help="The variable that will have the server's token when the agent runs.")
@click.option("--token", "secret", metavar="TOKEN", help="The token itself, kept in the settings (then yours alone).")
@click.option("--print", "only_print", is_flag=True, help="Print the settings as they would be, and change nothing.")
@click.option("--url", metavar="URL", help="The server. [TRACEWATCH_URL, else http://127.0.0.1:8400]")
def command(
    agent: str,
    project: bool,
    named: Path | None,
    hold: int | None,
    token_env: str | None,
    secret: str | None,
    only_print: bool,
    url: str | None,
) -> None:
    """Put hooks into the settings of Claude Code or Codex: each session is live in the viewer, and what it asks leave
    for can be allowed or denied there, with `tracewatch answer`, or in its terminal as always. Whoever is first is
    heard.

    Your settings stay as they are, beside the hooks; a copy from before stands beside the file. While the server is
    away the agent asks in its terminal as always, without any delay.
    """
    hold = HOLD_S[agent] if hold is None else hold
    api = Api(_address(url))
    file = SettingsFile(settings_of(agent, project=project, named=named))
    settings = file.read()
    reached, wants_token = _look(api.url)
    if token_env is None and secret is None and wants_token:
        token_env = "TRACEWATCH_TOKEN"
    _check_token(agent, token_env, secret, project)
    try:
        after = merged(agent, settings, api.url, hold_s=hold, token=token_env, secret=secret)
    except Failed as error:
        raise Failed(f"{file.name}: {error.message}") from error
    if only_print:
        click.echo(json.dumps(after, indent=2, ensure_ascii=False))
        return
    if after == settings:
        click.echo(f"{file.name} has these hooks already")
    else:
        kept = f"; as it was: {file.backup.name}" if settings else ""
        file.write(after, private=secret is not None)
        click.echo(f"{agent} tells {api.url} of its sessions, from the next one on ({file.name}{kept})")
    for line in [*obstacles(settings, api.url), *_notes(agent, api.url, reached, token_env, secret, hold)]:
        click.echo(text.one_line(line), err=True)


def _address(url: str | None) -> str:
    named = url or os.environ.get("TRACEWATCH_URL") or "http://127.0.0.1:8400"
    parts = urlsplit(named)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise CliError(f"{named} is no server's address, such as http://127.0.0.1:8400")
    return named


def _look(url: str) -> tuple[bool, bool]:
    """Whether the server answers, and whether it asks who has no token for one."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=LOOK_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/api/traces?limit=1")
        return True, connection.getresponse().status in (401, 403)
    except (OSError, http.client.HTTPException):
        return False, False
    finally:
        connection.close()


def _check_token(agent: str, token_env: str | None, secret: str | None, project: bool) -> None:
    if token_env is not None and secret is not None:
        raise CliError("either --token-env or --token")
    if token_env is not None and not _VARIABLE.fullmatch(token_env):
        raise CliError(f"{token_env} is no variable that a hook may name: capital letters, digits and _")
    if secret is not None and (project or agent == "codex"):
        raise CliError("a token is kept in the user's settings of Claude Code only: use --token-env NAME")
    if secret is not None and not re.fullmatch(r"[!-~]+", secret, re.ASCII):
        raise CliError("a token has no blanks")
    if token_env not in (None, "TRACEWATCH_TOKEN") and agent == "codex":
        raise CliError("codex's hooks read the token from TRACEWATCH_TOKEN")


def _notes(agent: str, url: str, reached: bool, token_env: str | None, secret: str | None, hold: int) -> list[str]:
    notes = []
    if not reached:
        notes.append(f"no server answers at {url} now: tracewatch serve   (until then the agent works as always)")
    if secret is not None:
        notes.append("the token stands in the settings as it is; the file is yours alone to read now")
    if token_env is not None:
        notes.append(
            f"the server wants a token: export {token_env}=$(tracewatch token create --scope write) for the agent"
        )
    if agent == "codex":
        notes.append("codex asks once, at its next start, whether these hooks are to be trusted")
    if hold == 0:
        notes.append("permissions are shown in the viewer, and answered in the terminal only")
    return notes
