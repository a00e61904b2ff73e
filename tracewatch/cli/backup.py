"""``tracewatch backup``: copy the database, also while a server uses it."""

from __future__ import annotations

from pathlib import Path

import click

from ..log.sqlite.backup import backup
from .common import examples
from .database import contents, database, db_option, progress

EXAMPLES = examples("""
    tracewatch backup /backup/tracewatch.db
    tracewatch backup "/backup/tracewatch-$(date +%F).db" --db /var/lib/tracewatch/tracewatch.db
    tracewatch restore /backup/tracewatch.db           puts it back
""")


@click.command("backup", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@db_option
@click.option("--force", is_flag=True, help="Write over FILE if it is there.")
def command(file: Path, db: str | None, force: bool) -> None:
    """Copy the database to FILE, also while a server uses it.

    FILE holds the log as it was at one moment. It is checked before it gets its name. Appends do not wait for the copy.
    FILE contains everything, hashes of tokens included, so only its owner can read it.
    """
    source = database(db)
    with progress({"copy": f"copying {source.name}", "check": "checking the copy"}) as tell:
        copied = backup(source, file, replace=force, progress=tell)
    click.echo(f"{copied.path}: {contents(copied)}, epoch {copied.epoch}")
