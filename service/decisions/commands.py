"""`python -m service database|prune|erase`: maintenance of the decision store while services run."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from screening.runtime.command_line import Parser
from service.config.settings import StoreSettings
from service.decisions import erasure
from service.decisions.database import Database, DatabaseError, head, revisions
from service.decisions.picture_store import PictureStore, PictureStoreError
from service.decisions.tables import DECISION


def main(argv: Sequence[str]) -> int:
    """Run one command; returns 0, 1 for a store that cannot be used now, or 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    try:
        found: dict[str, object] = arguments.run(arguments)
    except (DatabaseError, PictureStoreError, sa.exc.OperationalError) as error:
        print(f"error: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


def _parser() -> Parser:
    given = StoreSettings()
    common = Parser(add_help=False)
    common.add_argument(
        "--decisions", default=given.decisions, metavar="URL", help="database of the decisions [SCREENING_DECISIONS]"
    )
    common.add_argument(
        "--pictures", default=given.pictures, metavar="STORE",
        help="store of their pictures: a directory or an address such as s3://BUCKET/PREFIX [SCREENING_PICTURES]",
    )  # fmt: skip
    parser = Parser(prog="python -m service", description="Maintenance of the decision store.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    database = commands.add_parser("database", parents=[common], help="bring the schema to another version")
    database.add_argument("action", choices=("status", "upgrade", "downgrade"))
    database.add_argument(
        "version", nargs="?", help=f"for downgrade: base (deletes all tables and all data), or one of {revisions()}"
    )
    database.set_defaults(run=_database)

    prune = commands.add_parser("prune", parents=[common], help="delete decisions whose retention time has passed")
    prune.set_defaults(run=_prune)

    erase = commands.add_parser("erase", parents=[common], help="erase decisions, their feedback and their pictures")
    which = erase.add_mutually_exclusive_group(required=True)
    which.add_argument("--decision", metavar="ID", help="the decision with this id")
    which.add_argument("--product", metavar="TEXT", help="all decisions with this metadata.product")
    which.add_argument(
        "--metadata", nargs=2, metavar=("KEY", "VALUE"), help="all decisions with this text at this key of metadata"
    )
    erase.set_defaults(run=_erase)
    return parser


def _database(arguments: argparse.Namespace) -> dict[str, object]:
    database = _open_database(arguments)
    if arguments.action == "status":
        return {"database": database.name, "version": database.version(), "needed": head()}
    if arguments.action == "downgrade" and arguments.version is None:
        raise DatabaseError("downgrade needs a version: base, or one of " + ", ".join(revisions()))
    before, after = database.migrate("head" if arguments.action == "upgrade" else arguments.version)
    return {"database": database.name, "before": before, "after": after}


def _prune(arguments: argparse.Namespace) -> dict[str, object]:
    database, pictures = _open(arguments)
    decisions, deleted = erasure.prune(database, pictures, datetime.now(UTC))
    return {"decisions": decisions, "pictures": deleted}


def _erase(arguments: argparse.Namespace) -> dict[str, object]:
    database, pictures = _open(arguments)
    caller = f"command:{getpass.getuser()}"[:64]
    if arguments.decision is not None:
        return {"decisions": int(erasure.erase_one(database, pictures, arguments.decision, caller=caller))}
    if arguments.product is not None:
        condition, subject = DECISION.c.product == arguments.product, "product"
    else:
        key, value = arguments.metadata
        condition, subject = DECISION.c.answer["metadata"][key].as_string() == value, "metadata"
    count = erasure.erase_where(database, pictures, [condition], caller=caller, subject=subject)
    return {"decisions": count}


def _open(arguments: argparse.Namespace) -> tuple[Database, PictureStore]:
    database = _open_database(arguments)
    database.check()
    if arguments.pictures is None:
        raise PictureStoreError("give --pictures, or set SCREENING_PICTURES")
    return database, PictureStore(arguments.pictures)


def _open_database(arguments: argparse.Namespace) -> Database:
    if arguments.decisions is None:
        raise DatabaseError("give --decisions, or set SCREENING_DECISIONS")
    return Database(arguments.decisions)
