"""The command `screening-client`.

Exit codes:
    0    done: an answer for every request, or the service is ready
    1    the service refused a request or failed, or some lines of a batch did
    2    wrong arguments or unusable files; nothing was sent
    3    not reachable, not ready, overloaded or too slow: the same command may work later
    4    the service answered, but the model's text could not be read: there is no decision; in a batch, for some lines
    130  stopped by Ctrl-C
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from screening_client import constants
from screening_client.batch import run_batch
from screening_client.client import Client
from screening_client.errors import (
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    InputError,
    Overloaded,
    RequestTimeout,
    ScreeningClientError,
    TimedOut,
    Unavailable,
)
from screening_client.report import report

OK, FAILED, USAGE, LATER, UNREADABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, report; see the exit codes above."""
    arguments = _parser().parse_args(argv)
    try:
        with Client(base_url=arguments.base_url, api_key=arguments.api_key, timeout=arguments.timeout) as client:
            code: int = arguments.run(client, arguments)
            return code
    except ScreeningClientError as error:
        print(f"screening-client: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("screening-client: stopped", file=sys.stderr)
        return INTERRUPTED


def exit_code(error: ScreeningClientError) -> int:
    """The exit code for an error that ended a command."""
    if isinstance(error, InputError):
        return USAGE
    later = (ConnectionFailed, TimedOut, RequestTimeout, Conflict, Overloaded, Unavailable, DeadlineExceeded)
    return LATER if isinstance(error, later) else FAILED


def _screen(client: Client, arguments: argparse.Namespace) -> int:
    screening = client.screen(original=arguments.original, generated=arguments.generated, mode=arguments.mode)
    if arguments.json:
        print(json.dumps(screening.raw, ensure_ascii=False, indent=2))
    else:
        print(report(screening))
    return OK if screening.answered else UNREADABLE


def _batch(client: Client, arguments: argparse.Namespace) -> int:
    def tell(name: str, error: ScreeningClientError) -> None:
        tqdm.write(f"{name}: {error}", file=sys.stderr)  # above the bar, not into it

    counts = run_batch(
        client,
        arguments.file,
        arguments.out,
        concurrency=arguments.concurrency,
        mode=arguments.mode,
        on_failure=tell,
    )
    print(f"{counts.screened} screened, {counts.skipped} had an answer already, {counts.failed} failed", end="")
    print("; run again to try those once more" if counts.failed else "")
    if counts.unreadable:
        print(f"{counts.unreadable} of the screened without a decision: the model's text could not be read")
    if counts.failed:
        return FAILED
    return UNREADABLE if counts.unreadable else OK


def _ready(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.wait:
        client.wait_until_ready(arguments.wait)
    elif not client.ready():
        print("not ready", file=sys.stderr)
        return LATER
    print("ready")
    return OK


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--base-url", help=f"else SCREENING_BASE_URL, else {constants.BASE_URL}")
    shared.add_argument("--api-key", help="else SCREENING_API_KEY, which other users of the machine cannot see")
    shared.add_argument("--timeout", type=float, metavar="SECONDS", help="limit of each request, its retries included")

    parser = argparse.ArgumentParser(
        prog="screening-client",
        description="Which of four generated product pictures may be shown?",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"screening-client {constants.VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    screen = commands.add_parser("screen", parents=[shared], help="screen one product")
    screen.add_argument("original", metavar="ORIGINAL", help="the product's own photo")
    for letter in "ABCD":
        screen.add_argument("generated", action="append", metavar=letter, help=f"generated picture {letter}")
    screen.add_argument("--mode", choices=("cot", "direct"), default="cot", help="default: %(default)s")
    screen.add_argument("--json", action="store_true", help="print the service's answer as it came")
    screen.set_defaults(run=_screen)

    batch = commands.add_parser("batch", parents=[shared], help="screen every line of a file; can be continued")
    batch.add_argument("file", type=Path, metavar="FILE.jsonl", help='{"id": …, "original": …, "generated": […]} lines')
    batch.add_argument("--out", type=Path, required=True, metavar="RESULTS.jsonl", help="answers are appended here")
    batch.add_argument(
        "--concurrency", type=int, default=constants.CONCURRENCY, metavar="N", help="default: %(default)s"
    )
    batch.add_argument("--mode", choices=("cot", "direct"), help="for lines that name none; default: cot")
    batch.set_defaults(run=_batch)

    ready = commands.add_parser("ready", parents=[shared], help="is the service ready?")
    ready.add_argument("--wait", type=float, metavar="SECONDS", help="wait so long for it")
    ready.set_defaults(run=_ready)
    return parser
