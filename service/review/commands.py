"""`python -m service review queue|import|gold|snapshots`: work for reviewers, by hand or by a scheduled job."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from screening.runtime.command_line import Parser
from service.decisions.commands import open_database, open_pictures, store_options, user
from service.decisions.database import Database
from service.decisions.errors import DatabaseError, PictureStoreError, WrongAddress
from service.review import export, gold, tasks
from service.review.data_import import ImportRefused, import_directory

_BATCH = re.compile(r"[A-Za-z0-9._-]{1,64}")


def main(argv: Sequence[str]) -> int:
    """Run one command; returns 0, 1 for a store that cannot be used now, or 2 for wrong arguments or data."""
    arguments = _parser().parse_args(argv)
    try:
        with closing(open_database(arguments)) as database:
            database.check()
            found: object = arguments.run(database, arguments)
    except (ImportRefused, gold.GoldError, WrongAddress) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (DatabaseError, PictureStoreError, sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        print(f"error: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


def _parser() -> Parser:
    common = store_options()
    parser = Parser(prog="python -m service review", description="Make work for reviewers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    queue = commands.add_parser("queue", parents=[common], help="make tasks from stored decisions, by quota")
    queue.add_argument("--count", type=_count, required=True, metavar="N", help="maximum number of tasks")
    queue.add_argument(
        "--since", type=_moment, metavar="TIME",
        help="start of the period, such as 2026-11-01T00:00:00Z (default: 15 minutes before the end of the last run)",
    )  # fmt: skip
    queue.add_argument("--until", type=_moment, metavar="TIME", help="end of the period (default: now)")
    queue.add_argument("--seed", type=int, metavar="N", help="makes the draw repeatable (default: a random number)")
    queue.add_argument(
        "--reviews", type=int, choices=(1, 2), default=2,
        help="number of reviews of an audit or a disagreement (default: 2)",
    )  # fmt: skip
    queue.set_defaults(run=_queue)

    imported = commands.add_parser(
        "import", parents=[common], help="make labelling tasks from a data directory; its labels are not read"
    )
    imported.add_argument("directory", type=Path, metavar="DIR", help="directory that contains samples.jsonl")
    imported.add_argument(
        "--batch", type=_batch, required=True, metavar="NAME", help="name of the import; repeat it to continue"
    )
    imported.add_argument(
        "--reviews", type=int, choices=(1, 2), default=1,
        help="number of reviews of each sample; use 2 for test data (default: 1)",
    )  # fmt: skip
    imported.set_defaults(run=_import)

    snapshots = commands.add_parser(
        "snapshots",
        parents=[common],
        help="list the exported snapshots, and how many of their labels were erased since",
    )
    snapshots.set_defaults(run=lambda database, _: export.snapshots(database))

    golden = commands.add_parser("gold", help="mark decided tasks as sources of gold questions")
    actions = golden.add_subparsers(required=True, metavar="ACTION")
    for name, text in (("add", "mark tasks; their labels become the expected answers"), ("remove", "unmark tasks")):
        action = actions.add_parser(name, parents=[common], help=text)
        action.add_argument("task", nargs="+", metavar="TASK", help="id of a task, as GET /review/export lists it")
        action.set_defaults(run=_add_gold if name == "add" else _remove_gold)
    actions.add_parser("list", parents=[common], help="list the marked tasks").set_defaults(
        run=lambda database, _: gold.listed(database)
    )
    return parser


def _queue(database: Database, arguments: argparse.Namespace) -> object:
    return tasks.make_tasks(
        database,
        caller=f"command:{user()}"[:64],
        count=arguments.count,
        since=arguments.since,
        until=arguments.until,
        seed=arguments.seed,
        reviews=arguments.reviews,
    )


def _import(database: Database, arguments: argparse.Namespace) -> object:
    pictures = open_pictures(database, arguments)
    new, known = import_directory(
        database, pictures, arguments.directory, batch=arguments.batch, reviews=arguments.reviews
    )
    return {"batch": arguments.batch, "tasks": new, "known": known}


def _add_gold(database: Database, arguments: argparse.Namespace) -> object:
    return {task: gold.add(database, task) for task in arguments.task}


def _remove_gold(database: Database, arguments: argparse.Namespace) -> object:
    return {task: gold.remove(database, task) for task in arguments.task}


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError("give a whole number from 1 to 100000")
    return int(text)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError("give a time with its zone, such as 2026-11-01T00:00:00Z")
    return moment.astimezone(UTC)


def _batch(text: str) -> str:
    if _BATCH.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("give 1 to 64 letters, digits, '.', '_' or '-'")
    return text
