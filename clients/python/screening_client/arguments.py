"""Defines the command-line arguments of `screening-client`."""

from __future__ import annotations

import argparse
import json
from typing import Any, NoReturn

from screening_client import constants, decision_arguments
from screening_client.errors import InputError

EXIT_CODES = """\
exit codes:
    0    success: every request has an answer, or the service is ready
    1    the service refused a request or failed; in a batch, at least one line failed
    2    wrong arguments or unusable files; nothing was sent
    3    the service is unreachable, not ready, overloaded or too slow; the same command may succeed later
    4    the model's text could not be read, so there is no decision; in a batch, for at least one line
    74   the output cannot be written, for example because the disk is full; a batch can be continued
    130  stopped by Ctrl-C (SIGINT); a batch can be continued
    141  the program that reads the output has ended, such as `head` (SIGPIPE)
    143  stopped by SIGTERM; a batch can be continued

environment variables:
    SCREENING_BASE_URL    address of the service; --base-url overrides it
    SCREENING_API_KEY     API key; --api-key overrides it
    SCREENING_LOG         log level on stderr: debug, info, warning or error; default: no log"""

_BATCH = """\
Screens every line of a file. Each line is a JSON object:

    {"id": "4711", "original": "o.jpg", "generated": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]}

"id" is a string or a number. "mode", "metadata", "review_below" and "locate" are optional. Paths are relative to the
file, or to the current directory if the lines come from the standard input. A bad line does not stop the batch; its
error is reported on stderr. To continue a batch, run the same command again: it skips lines whose id has an answer."""


class UsageError(InputError):
    """The command-line arguments are wrong."""


class _Parser(argparse.ArgumentParser):
    """Raises an error where argparse would print its usage and exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. Run `{self.prog} --help` for the arguments")


def parser() -> argparse.ArgumentParser:
    """Build the parser. It stores the name of the command in `command`."""
    top = _Parser(prog="screening-client", description="Decides which of four generated product pictures may be shown.")
    top.add_argument("--version", action="version", version=f"screening-client {constants.VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    about = "Screens the pictures of one product and prints the decision."
    _screen(commands.add_parser("screen", help="screen one product", description=about))
    _batch(commands.add_parser("batch", help="screen every line of a file; can be continued", description=_BATCH))
    about = "Reads and erases decisions that the service keeps. Needs a key with the scope feedback."
    _decisions(commands.add_parser("decisions", help="read and erase stored decisions", description=about))
    about = "Adds feedback to a decision: what became of it. Needs a key with the scope feedback."
    _feedback(commands.add_parser("feedback", help="add feedback to a decision: what became of it", description=about))
    about = "Checks whether the service is ready."
    _ready(commands.add_parser("ready", help="check whether the service is ready", description=about))
    return top


def metadata(texts: list[str]) -> dict[str, Any]:
    """Merge `key=value` pairs and JSON objects into one mapping. The value of a pair is a string.

    Raises:
        UsageError: a text has neither form.
    """
    together: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if text.lstrip().startswith("{"):
            together |= _json_object(text)
        elif equals and key:
            together[key] = value
        else:
            raise UsageError(f"--metadata {text!r} is neither key=value nor a JSON object")
    return together


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--metadata is not valid JSON: {error}") from error
    assert isinstance(value, dict)  # noqa: S101 - it begins with a brace
    return value


def _shared(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--base-url",
        metavar="URL",
        help=f"address of the service (default: SCREENING_BASE_URL, otherwise {constants.BASE_URL})",
    )
    command.add_argument(
        "--api-key",
        metavar="KEY",
        help="API key; other users of the machine can see it here, but not in SCREENING_API_KEY "
        "(default: SCREENING_API_KEY, otherwise none)",
    )
    command.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="maximum time in seconds for each request, including its retries, more than 0 (default: no total limit; "
        f"{constants.CONNECT_TIMEOUT:g} to connect and {constants.READ_TIMEOUT:g} for an answer)",
    )
    command.add_argument(
        "--max-retries",
        type=int,
        default=constants.MAX_RETRIES,
        metavar="N",
        help="maximum number of retries of a failed request, 0 or more (default: %(default)s)",
    )
    command.add_argument(
        "--json", action="store_true", help="print answers and errors as JSON (default: readable text)"
    )


def _question(command: argparse.ArgumentParser, scope: str) -> None:
    command.add_argument(
        "--mode",
        choices=("cot", "direct"),
        help=f"answer mode{scope}: cot explains, direct is faster (default: cot)",
    )
    command.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"metadata{scope}, as KEY=VALUE or as a JSON object, at most 4 KiB; the answer echoes it; can be repeated "
        "(default: none)",
    )
    command.add_argument(
        "--review-below",
        type=float,
        metavar="CONFIDENCE",
        help=f"confidence{scope}, 0 to 1, below which needs_review is set (default: the operator's threshold)",
    )

    command.add_argument(
        "--locate",
        action="store_true",
        help=f"also say where each fault is{scope}; needs a checkpoint that was trained for it (default: no)",
    )


def _screen(command: argparse.ArgumentParser) -> None:
    command.add_argument("original", metavar="ORIGINAL", help="the original product photo; - reads the standard input")
    for letter in "ABCD":
        command.add_argument("generated", action="append", metavar=letter, help=f"generated picture {letter}")
    _question(command, "")
    _shared(command)


def _batch(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE.jsonl", help="file with the lines; - reads the standard input")
    command.add_argument(
        "--out",
        required=True,
        metavar="RESULTS.jsonl",
        help="file to which answers are appended (required); - is the standard output, which cannot be continued",
    )
    command.add_argument(
        "--concurrency",
        type=int,
        default=constants.CONCURRENCY,
        metavar="N",
        help="maximum number of concurrent requests, 1 or more; reduced while the service answers 429 "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--retry-unreadable",
        action="store_true",
        help="also screen ids again whose last answer could not be read (default: skip them)",
    )
    _question(command, " for lines that give none")
    _shared(command)


def _decisions(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(required=True, metavar="ACTION", dest="action")
    for name, add, text in (
        ("list", decision_arguments.add_list, "list decisions, newest first"),
        ("get", decision_arguments.add_get, "show a decision with its feedback"),
        ("picture", decision_arguments.add_picture, "write a picture of a decision to a file"),
        ("erase", decision_arguments.add_get, "erase a decision, its feedback and its pictures; needs the scope admin"),
    ):
        action = actions.add_parser(name, help=text)
        add(action)
        _shared(action)


def _feedback(command: argparse.ArgumentParser) -> None:
    decision_arguments.add_feedback(command)
    _shared(command)


def _ready(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help="maximum time in seconds to wait until the service is ready, more than 0 (default: check once)",
    )
    _shared(command)
