"""``tracewatch uninstall``: take the hooks of ``install`` out of a coding agent's settings."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Failed, examples
from .hook_settings import alike, without_ours
from .install import agent_argument, project_option, settings_of, settings_option
from .settings_file import SettingsFile

EXAMPLES = examples("""
    tracewatch uninstall claude-code
    tracewatch uninstall claude-code --project
    tracewatch uninstall codex
""")


@click.command("uninstall", epilog=EXAMPLES, short_help="Take out what install put in.")
@agent_argument
@project_option
@settings_option
def command(agent: str, project: bool, named: Path | None) -> None:
    """Take tracewatch's hooks out of the settings of Claude Code or Codex. Everything else in them stays; where nothing
    else has changed since, the file is put back byte for byte.
    """
    file = SettingsFile(settings_of(agent, project=project, named=named))
    settings = file.read()
    try:
        after = without_ours(agent, settings)
    except Failed as error:
        raise Failed(f"{file.name}: {error.message}") from error
    if after == settings:
        click.echo(f"{file.name} has no hooks of tracewatch")
        return
    click.echo(f"{file.name} is {file.put_back(after, alike)}")
