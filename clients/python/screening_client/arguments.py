"""The arguments of the command line."""

from __future__ import annotations

import argparse
import json
from typing import Any, NoReturn

from screening_client import constants, decision_arguments
from screening_client.errors import InputError

EXIT_CODES = """\
exit codes:
    0    done: an answer for every request, or the service is ready
    1    the service refused a request or failed, or some lines of a batch did
    2    wrong arguments or unusable files; nothing was sent
    3    not reachable, not ready, overloaded or too slow: the same command may work later
    4    the service answered, but the model's text could not be read: there is no decision; in a batch, for some lines
    74   the output cannot be written, because the disk is full for instance; a batch can be continued
    130  stopped by Ctrl-C (SIGINT); a batch can be continued
    141  the program that read the output has ended, as `head` does (SIGPIPE)
    143  stopped by SIGTERM; a batch can be continued

environment:
    SCREENING_BASE_URL, SCREENING_API_KEY    where --base-url and --api-key are not given
    SCREENING_LOG                            debug or info: what the client does, on stderr"""

_BATCH = """\
Screens every line of a file. A line is a JSON object:

    {"id": "4711", "original": "o.jpg", "generated": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]}

"id" is a text or a number. "mode", "metadata" and "review_below" are optional. Paths are relative to the file, or to
the current folder where lines come from the standard input. A bad line fails alone, with its reason on stderr. Run the
command again to continue: lines whose id has an answer are skipped."""


class UsageError(InputError):
    """Wrong arguments."""


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print after its usage and exit with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. Run `{self.prog} --help` for the arguments")


def parser() -> argparse.ArgumentParser:
    """Every command sets `command` to its name."""
    top = _Parser(prog="screening-client", description="Which of four generated product pictures may be shown?")
    top.add_argument("--version", action="version", version=f"screening-client {constants.VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _screen(commands.add_parser("screen", help="screen one product"))
    _batch(commands.add_parser("batch", help="screen every line of a file; can be continued", description=_BATCH))
    _decisions(commands.add_parser("decisions", help="read and erase kept decisions"))
    _feedback(commands.add_parser("feedback", help="say what became of a decision"))
    _ready(commands.add_parser("ready", help="ask whether the service is ready"))
    return top


def metadata(texts: list[str]) -> dict[str, Any]:
    """`key=value` and JSON objects → one mapping. Values of the first form are texts.

    Raises:
        UsageError: neither of them.
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
        help=f"address of the service; default: SCREENING_BASE_URL, otherwise {constants.BASE_URL}",
    )
    command.add_argument(
        "--api-key",
        metavar="KEY",
        help="default: SCREENING_API_KEY, which other users of the machine cannot see",
    )
    command.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="limit of each request in seconds, its retries included; default: no limit of the whole, "
        f"{constants.CONNECT_TIMEOUT:g} to connect and {constants.READ_TIMEOUT:g} for an answer",
    )
    command.add_argument(
        "--max-retries",
        type=int,
        default=constants.MAX_RETRIES,
        metavar="N",
        help="further attempts of a request that failed, 0 or more; default: %(default)s",
    )
    command.add_argument("--json", action="store_true", help="print JSON, errors included")


def _asking(command: argparse.ArgumentParser, of_lines: str) -> None:
    command.add_argument(
        "--mode", choices=("cot", "direct"), help=f"cot explains, direct is faster{of_lines}; default: cot"
    )
    command.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"echoed in the answer{of_lines}; a JSON object is possible as well; can be repeated; at most 4 KiB",
    )
    command.add_argument(
        "--review-below",
        type=float,
        metavar="CONFIDENCE",
        help=f"set needs_review below this confidence, 0 to 1{of_lines}; default: the operator's threshold",
    )


def _screen(command: argparse.ArgumentParser) -> None:
    command.add_argument("original", metavar="ORIGINAL", help="the product's own photo; - is the standard input")
    for letter in "ABCD":
        command.add_argument("generated", action="append", metavar=letter, help=f"generated picture {letter}")
    _asking(command, "")
    _shared(command)


def _batch(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE.jsonl", help="the lines; - is the standard input")
    command.add_argument(
        "--out",
        required=True,
        metavar="RESULTS.jsonl",
        help="answers are appended here; - is the standard output, which cannot be continued",
    )
    command.add_argument(
        "--concurrency",
        type=int,
        default=constants.CONCURRENCY,
        metavar="N",
        help="maximum number of requests at once; fewer while the service answers 429; default: %(default)s",
    )
    command.add_argument(
        "--retry-unreadable",
        action="store_true",
        help="ask again for ids whose last answer could not be read; the last line of an id counts",
    )
    _asking(command, ", for lines that do not say otherwise")
    _shared(command)


def _decisions(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(required=True, metavar="ACTION", dest="action")
    for name, add, text in (
        ("list", decision_arguments.add_list, "list decisions, newest first"),
        ("get", decision_arguments.add_get, "show a decision with its feedback"),
        ("picture", decision_arguments.add_picture, "write a picture of a decision to a file"),
        ("erase", decision_arguments.add_get, "erase a decision, its feedback and its pictures; needs an admin key"),
    ):
        action = actions.add_parser(name, help=text)
        add(action)
        _shared(action)


def _feedback(command: argparse.ArgumentParser) -> None:
    decision_arguments.add_feedback(command)
    _shared(command)


def _ready(command: argparse.ArgumentParser) -> None:
    command.add_argument("--wait", type=float, metavar="SECONDS", help="wait at most so long; default: ask once")
    _shared(command)
