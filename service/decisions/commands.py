"""`python -m service database|prune|erase`: maintenance of the decision store while services run."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime

import sqlalchemy as sa

from screening.runtime.command_line import Parser
from service.config.settings import StoreSettings
from service.decisions import erasure, orphans, schema_version
from service.decisions.database import Database
from service.decisions.errors import DatabaseError, PictureStoreError, WrongAddress
from service.decisions.picture_store import PictureStore


def main(argv: Sequence[str]) -> int:
    """Run one command; returns 0, 1 for a store that cannot be used now, or 2 for wrong arguments."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if getattr(arguments, "sample", None) is not None and arguments.batch is None:
        parser.error("--sample needs --batch: give the import of the sample")
    return run(arguments.run, arguments)


def run(
    command: Callable[[Database, argparse.Namespace], object],
    arguments: argparse.Namespace,
    refused: tuple[type[Exception], ...] = (),
) -> int:
    """Run a command on the database that its arguments name, and print what it returns as JSON.

    Args:
        refused: errors of the command that say that its data are wrong.

    Returns:
        0, 1 for a store that cannot be used now, or 2 for wrong arguments or data.
    """
    try:
        with closing(_open_database(arguments)) as database:
            found = command(database, arguments)
    except refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (DatabaseError, PictureStoreError, sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        print(f"error: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return 2 if isinstance(error, WrongAddress) else 1
    print(json.dumps(found))
    return 0


def _parser() -> Parser:
    common = store_options()
    parser = Parser(prog="python -m service", description="Maintenance of the decision store.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    database = commands.add_parser("database", parents=[common], help="bring the schema to another version")
    database.add_argument("action", choices=("status", "upgrade", "downgrade"))
    database.add_argument(
        "version",
        nargs="?",
        help=f"for downgrade: base (deletes all tables and all data), or one of {schema_version.revisions()}",
    )
    database.set_defaults(run=_database)

    prune = commands.add_parser(
        "prune",
        parents=[common],
        help="delete decisions whose retention time has passed, and what killed services left",
    )
    prune.set_defaults(run=_prune)

    erase = commands.add_parser("erase", parents=[common], help="erase decisions or samples, with their pictures")
    which = erase.add_mutually_exclusive_group(required=True)
    which.add_argument("--decision", metavar="ID", help="the decision with this id")
    which.add_argument(
        "--product",
        metavar="TEXT",
        help="all decisions with this metadata.product, and imported samples with this product",
    )
    which.add_argument(
        "--metadata",
        nargs=2,
        metavar=("KEY", "VALUE"),
        help="all decisions with this text or whole number at this key of metadata",
    )
    which.add_argument("--batch", metavar="NAME", help="all samples of this import (`review import --batch NAME`)")
    erase.add_argument("--sample", metavar="ID", help="with --batch: only the sample with this id")
    erase.set_defaults(run=_erase)
    return parser


def store_options() -> Parser:
    """The options of every command that name the decision store, as a parent of its parser."""
    given = StoreSettings()
    common = Parser(add_help=False)
    common.add_argument(
        "--decisions", default=given.decisions, metavar="URL", help="database of the decisions [SCREENING_DECISIONS]"
    )
    common.add_argument(
        "--pictures", default=given.pictures, metavar="STORE",
        help="store of their pictures: a directory or an address such as s3://BUCKET/PREFIX [SCREENING_PICTURES]",
    )  # fmt: skip
    return common


def _database(database: Database, arguments: argparse.Namespace) -> dict[str, object]:
    if arguments.action == "status":
        return {
            "database": database.name, "version": schema_version.current(database), "needed": schema_version.head(),
        }  # fmt: skip
    if arguments.action == "downgrade" and arguments.version is None:
        raise DatabaseError("downgrade needs a version: base, or one of " + ", ".join(schema_version.revisions()))
    target = "head" if arguments.action == "upgrade" else arguments.version
    before, after = schema_version.migrate(database, target)
    return {"database": database.name, "before": before, "after": after}


def _prune(database: Database, arguments: argparse.Namespace) -> dict[str, object]:
    pictures = open_pictures(database, arguments)
    now = datetime.now(UTC)
    decisions, deleted = erasure.prune(database, pictures, now)
    return {"decisions": decisions, "pictures": deleted, "orphans": orphans.remove(database, pictures, now)}


def _erase(database: Database, arguments: argparse.Namespace) -> dict[str, object]:
    pictures = open_pictures(database, arguments)
    caller = f"command:{user()}"[:64]
    if arguments.decision is not None:
        return {"decisions": int(erasure.erase_one(database, pictures, arguments.decision, caller=caller))}
    if arguments.batch is not None:
        return {"samples": erasure.erase_batch(database, pictures, arguments.batch, arguments.sample, caller=caller)}
    if arguments.product is not None:
        ids = erasure.of_product(database, arguments.product)
        return {
            "decisions": erasure.erase(database, pictures, ids, caller=caller, subject="product"),
            "samples": erasure.erase_samples(database, pictures, arguments.product, caller=caller),
        }
    ids = erasure.with_metadata(database, *arguments.metadata)
    return {"decisions": erasure.erase(database, pictures, ids, caller=caller, subject="metadata")}


def user() -> str:
    """Name of the user who runs the command, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id need not have a name
        return str(os.getuid())


def open_pictures(database: Database, arguments: argparse.Namespace) -> PictureStore:
    """The picture store of a command, after a check of the database's version.

    Raises:
        DatabaseError: the database has another version.
        PictureStoreError: no picture store is given, or it cannot be opened.
    """
    schema_version.check(database)
    if not arguments.pictures:  # an empty path would be the working directory
        raise PictureStoreError("give --pictures, or set SCREENING_PICTURES")
    return PictureStore(arguments.pictures)


def _open_database(arguments: argparse.Namespace) -> Database:
    """The database of a command.

    Raises:
        WrongAddress: no database is given, or its address has another form.
    """
    if arguments.decisions is None:
        raise WrongAddress("give --decisions, or set SCREENING_DECISIONS")
    return Database(arguments.decisions)
