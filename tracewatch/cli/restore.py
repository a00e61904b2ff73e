"""``tracewatch restore``: put a backup in the place of the database."""

from __future__ import annotations

from pathlib import Path

import click

from ..log.sqlite.restore import restore_file
from .common import CliError, examples
from .database import contents, database, db_option, progress
from .text import count, one_line

EXAMPLES = examples("""
    tracewatch restore /backup/tracewatch.db           where there is no database yet
    tracewatch restore /backup/tracewatch.db --force --db /var/lib/tracewatch/tracewatch.db
""")


@click.command("restore", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@db_option
@click.option("--force", is_flag=True, help="Replace an existing database, which is kept under another name.")
@click.option("--discard", is_flag=True, help="With --force: delete the database that is replaced.")
def command(file: Path, db: str | None, force: bool, discard: bool) -> None:
    """Put the backup FILE in the place of the database, with a new epoch.

    Stop the server first. Clients that have seen the other history get a gap (reset) and begin anew. Recorders that
    are still at work go on. FILE stays as it is. If the restore is killed, the old database or the new one is there,
    never a mix.
    """
    if discard and not force:
        raise CliError("--discard says what becomes of the database that --force replaces")
    log = database(db)
    with progress({"copy": f"copying {file.name}", "check": "checking the copy"}) as tell:
        restored = restore_file(file, log, replace=force, keep=not discard, progress=tell)
    click.echo(f"{restored.log.path}: {contents(restored.log)}, new epoch {restored.log.epoch}")
    tokens = restored.tokens
    if tokens.revoked or tokens.added:
        made = f"{count(tokens.added, 'token')} made and {tokens.revoked:,} revoked since the backup stay so"
        click.echo(made)
    if tokens.back:
        click.echo("these tokens are valid again, as they were at the time of the backup (tracewatch token revoke ID):")
        for token_id, label in tokens.back:
            click.echo(f"  {token_id}  {one_line(label)}")
    if restored.kept is not None:
        click.echo(f"the database that was there is kept as {restored.kept}")
