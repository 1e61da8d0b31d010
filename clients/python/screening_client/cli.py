"""The command `screening-client`. The module `arguments` defines its arguments and documents its exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from screening_client import constants, decision_commands
from screening_client.arguments import metadata, parser
from screening_client.batch import Counts, Failure, run_batch
from screening_client.batch_lines import STDIN, Defaults
from screening_client.batch_results import STDOUT
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
    Unauthenticated,
    Unavailable,
)
from screening_client.pictures import PictureInput
from screening_client.report import error_document, plain, report
from screening_client.stopping import Stopped, discard_output, stopped_by_signals

OK, FAILED, USAGE, LATER, UNREADABLE = 0, 1, 2, 3, 4
OUTPUT, INTERRUPTED, CLOSED_PIPE, TERMINATED = 74, 130, 141, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; see `arguments` for the exit codes."""
    try:
        with stopped_by_signals():
            return _main(argv)
    except Stopped as stopped:
        _say("stopped")
        return stopped.exit_code
    except BrokenPipeError:
        discard_output()
        return CLOSED_PIPE
    except OSError as error:
        discard_output()
        _say(f"{error.filename or 'the output'} cannot be written: {error.strerror}")
        return OUTPUT


def exit_code(error: ScreeningClientError) -> int:
    """The exit code for an error that ended a command."""
    if isinstance(error, InputError):
        return USAGE
    later = (ConnectionFailed, TimedOut, RequestTimeout, Conflict, Overloaded, Unavailable, DeadlineExceeded)
    return LATER if isinstance(error, later) else FAILED


def _main(argv: Sequence[str] | None) -> int:
    if hasattr(sys.stdout, "reconfigure"):  # a model's text may contain characters that the terminal cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = argparse.Namespace(out=None, json="--json" in (sys.argv[1:] if argv is None else argv))
    try:
        return _run(parser().parse_args(argv, arguments))
    except ScreeningClientError as error:
        return _tell(error, arguments)
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # a failure here still gets its exit code


def _tell(error: ScreeningClientError, arguments: argparse.Namespace) -> int:
    """Report an error. With `--json`, print it as a document on stdout, unless a batch writes its answers there."""
    code = exit_code(error)
    if arguments.json and arguments.out in STDOUT:
        _note(json.dumps(error_document(error, code)))
        return code
    _say(str(error))
    if isinstance(error, Unauthenticated):
        _say("set SCREENING_API_KEY to a key of this service, or give --api-key")
    if arguments.json:
        _print_json(error_document(error, code))
    return code


def _run(arguments: argparse.Namespace) -> int:
    with Client(
        base_url=arguments.base_url,
        api_key=arguments.api_key,
        timeout=arguments.timeout,
        max_retries=arguments.max_retries,
    ) as client:
        commands = {"screen": _screen, "batch": _batch, "ready": _ready, "decisions": _kept, "feedback": _kept}
        return commands[arguments.command](client, arguments)


def _screen(client: Client, arguments: argparse.Namespace) -> int:
    original, *generated = _pictures([arguments.original, *arguments.generated])
    screening = client.screen(
        original=original,
        generated=generated,
        mode=arguments.mode or "cot",
        metadata=metadata(arguments.metadata) or None,
        review_below=arguments.review_below,
        locate=arguments.locate,
    )
    if arguments.json:
        _print_json(screening.raw)
    else:
        print(report(screening))
    return OK if screening.answered else UNREADABLE


def _pictures(paths: Sequence[str]) -> list[PictureInput]:
    if sum(path in STDIN for path in paths) > 1:
        raise InputError("only one picture can come from the standard input (-)")
    return [_standard_input() if path in STDIN else path for path in paths]


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise InputError("the standard input is closed")
    return sys.stdin.buffer.read()


def _batch(client: Client, arguments: argparse.Namespace) -> int:
    def tell(failure: Failure) -> None:
        text = plain(f"{failure.name}: {failure.error}")
        if arguments.json:
            text = json.dumps(_failure_document(failure))
        _note(text)

    if arguments.locate and arguments.mode == "direct":
        raise InputError("--locate needs --mode cot, because a direct answer names no issues")
    counts = run_batch(
        client,
        arguments.file,
        arguments.out,
        concurrency=arguments.concurrency,
        defaults=Defaults(
            mode=arguments.mode,
            metadata=metadata(arguments.metadata),
            review_below=arguments.review_below,
            locate=arguments.locate,
        ),
        retry_unreadable=arguments.retry_unreadable,
        on_failure=tell,
    )
    summary = json.dumps(_count_document(counts)) if arguments.json else _summary(counts)
    if arguments.out in STDOUT:
        _note(summary)
    else:
        print(summary)
    if counts.failed:
        return FAILED
    return UNREADABLE if counts.unreadable else OK


def _summary(counts: Counts) -> str:
    text = f"{counts.screened} screened, {counts.skipped} skipped (answered before), {counts.failed} failed"
    if counts.failed:
        text += "; run the command again to retry the failed ones"
    if counts.unreadable:
        text += f"\n{counts.unreadable} of the screened have no decision: the model's text could not be read"
    return text


def _count_document(counts: Counts) -> dict[str, int]:
    return {
        "screened": counts.screened,
        "skipped": counts.skipped,
        "failed": counts.failed,
        "unreadable": counts.unreadable,
    }


def _failure_document(failure: Failure) -> dict[str, Any]:
    line = failure.line
    where = {} if line is None else {"line": line.number, "id": line.id}
    return where | error_document(failure.error, exit_code(failure.error))


def _ready(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.wait is None:
        why = client._why_not_ready(constants.READY_TIMEOUT)
    else:
        client.wait_until_ready(arguments.wait)
        why = None
    if arguments.json:
        _print_json({"ready": why is None})
    elif why is None:
        print("ready")
    if why is not None:
        _say(f"not ready: {why}")
    return OK if why is None else LATER


def _kept(client: Client, arguments: argparse.Namespace) -> int:
    run = decision_commands.feedback if arguments.command == "feedback" else decision_commands.decisions
    document, text = run(client, arguments)
    if arguments.json and document is not None:
        _print_json(document)
    elif text:
        print(text)
    return OK


def _print_json(document: Any) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=2)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2)
    print(text)


def _say(message: str) -> None:
    _note(f"screening-client: {plain(message)}")


def _note(text: str) -> None:
    """Write to stderr, above a progress bar. A closed or full stderr must not end a batch."""
    if sys.stderr is not None:
        with suppress(OSError):
            tqdm.write(text, file=sys.stderr)
