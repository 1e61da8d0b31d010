"""A file of requests → a file of results that can be continued.

In:  `{"id": "4711", "original": "o.jpg", "generated": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]}` per line, optionally with
     `mode` and `metadata`; paths are relative to the file.
Out: `{"id": "4711", "screening": {…}}` per answer, in the order of arrival. Only answers are written, so running
     again does what is missing and what failed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from screening_client.bulk import as_completed, check_bulk, progress_bar
from screening_client.client import Client
from screening_client.errors import InputError, ScreeningClientError
from screening_client.request import Mode, ScreenRequest
from screening_client.result import Screening

_FIELDS = ("id", "original", "generated", "mode", "metadata")


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run did."""

    screened: int = 0
    skipped: int = 0
    failed: int = 0
    unreadable: int = 0
    """Of the screened, those without a decision: the model's text could not be read."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the input: a request, or why it is none."""

    name: str
    request: ScreenRequest | InputError


def run_batch(
    client: Client,
    source: Path,
    out: Path,
    *,
    concurrency: int,
    mode: Mode | None = None,
    progress: bool = True,
    on_failure: Callable[[str, ScreeningClientError], object] = lambda _name, _error: None,
) -> Counts:
    """Screen every line of `source` whose id is not in `out` yet, and append the answers.

    Args:
        mode: for lines that name none.
        on_failure: told the id (or line) and the error of each failure; the run goes on.

    Raises:
        InputError: `source` cannot be read, or `out` cannot be written or is not a file of results.
    """
    check_bulk(concurrency, "return")
    done = _open_for_resuming(out)
    skipped = screened = failed = unreadable = 0
    try:
        with source.open("rb") as file:
            total = sum(1 for line in file if line.strip())
        destination = out.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be opened: {error.strerror}") from error

    names: list[str] = []

    def missing() -> Iterator[_Line]:
        nonlocal skipped
        for line in lines:
            if line.name in done:
                skipped += 1
                bar.update()
            else:
                names.append(line.name)
                yield line

    def screen(line: _Line, given_up: threading.Event) -> Screening:
        if isinstance(line.request, InputError):
            raise line.request
        return client._screen(line.request, given_up)

    bar = progress_bar((), shown=progress, total=total)
    lines = _lines(source, mode)
    outcomes = as_completed(screen, missing(), concurrency)
    with destination, bar, closing(lines), closing(outcomes):
        for index, outcome in outcomes:
            if isinstance(outcome, ScreeningClientError):
                failed += 1
                on_failure(names[index], outcome)
            else:
                # One flushed write per answer: a killed run loses at most the line that it was writing.
                record = {"id": names[index], "screening": outcome.raw}
                destination.write(json.dumps(record) + "\n")
                destination.flush()
                screened += 1
                unreadable += not outcome.answered
            bar.update()
    return Counts(screened=screened, skipped=skipped, failed=failed, unreadable=unreadable)


def _lines(source: Path, mode: Mode | None) -> Generator[_Line]:
    seen: set[str] = set()
    with source.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                line = _line(text, f"line {number}", source.parent, mode)
                if line.name in seen:
                    line = _Line(f"line {number}", InputError(f"id {line.name!r} stands in an earlier line as well"))
                seen.add(line.name)
                yield line


def _line(text: bytes, where: str, folder: Path, mode: Mode | None) -> _Line:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Line(where, InputError(f"not JSON: {error}"))
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
        return _Line(where, InputError('a line is an object with an "id", a text that is not empty'))
    name: str = row["id"]
    if unknown := sorted(row.keys() - set(_FIELDS)):
        return _Line(name, InputError(f"unknown field {', '.join(unknown)}; fields are {', '.join(_FIELDS)}"))
    original, generated = row.get("original"), row.get("generated")
    if (
        not isinstance(original, str)
        or not isinstance(generated, list)
        or not all(isinstance(path, str) for path in generated)
    ):
        return _Line(name, InputError("original must be a path and generated a list of four paths"))
    request = ScreenRequest(
        original=folder / original,
        generated=[folder / path for path in generated],
        mode=row.get("mode", mode or "cot"),
        metadata=row.get("metadata"),
    )
    return _Line(name, request)


def _open_for_resuming(out: Path) -> set[str]:
    """The ids that `out` holds an answer for. A last line that was not written to its end is cut off.

    Raises:
        InputError: a whole line is not a result. Nothing is changed then: this may be somebody's other file.
    """
    try:
        data = out.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{out} cannot be read: {error.strerror}") from error
    whole, newline, rest = data.rpartition(b"\n")
    ids = {_result_id(line, out, number) for number, line in enumerate(whole.split(b"\n"), 1)} if newline else set()
    if rest and not rest.startswith(b'{"id"'[: len(rest)]):
        raise InputError(f"the last line of {out} is not the beginning of a result; name another file with --out")
    if rest:
        with out.open("r+b") as file:
            file.truncate(len(data) - len(rest))
    return ids


def _result_id(line: bytes, out: Path, number: int) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or "screening" not in row:
        raise InputError(f"line {number} of {out} is not a result; name another file with --out, or mend the line")
    name: str = row["id"]
    return name
