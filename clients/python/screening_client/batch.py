"""Screens a file of requests into a file of results. A batch can be continued.

Input:  One line per request, `{"id": "4711", "original": "o.jpg", "generated": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]}`,
        optionally with `mode`, `metadata`, `review_below` and `locate`. Paths are relative to the file.
Output: One line per answer, `{"id": "4711", "screening": {…}}`, in the order of arrival. Failed requests are not
        written, so a second run of the same command screens the missing and the failed ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from screening_client.batch_lines import Defaults, Line, Source
from screening_client.batch_results import Results
from screening_client.bulk import check_bulk, progress_bar
from screening_client.bulk_threads import as_completed
from screening_client.client import Client
from screening_client.errors import InputError, ScreeningClientError
from screening_client.pace import Run
from screening_client.request import ScreenRequest
from screening_client.result import Screening

UNREADABLE = "unreadable"


@dataclass(slots=True)
class Counts:
    """Numbers of lines that a run has processed."""

    screened: int = 0
    skipped: int = 0
    failed: int = 0
    unreadable: int = 0
    """Number of screened lines without a decision, because the model's text could not be read."""

    @property
    def done(self) -> int:
        return self.screened + self.skipped + self.failed


@dataclass(frozen=True, slots=True)
class Failure:
    """A line without an answer."""

    line: Line | None
    """None if the rest of the input cannot be read."""
    error: ScreeningClientError

    @property
    def name(self) -> str:
        return "input" if self.line is None else self.line.name


def run_batch(
    client: Client,
    source: str,
    out: str,
    *,
    concurrency: int,
    defaults: Defaults = Defaults(),  # noqa: B008 - immutable
    retry_unreadable: bool = False,
    progress: bool = True,
    on_failure: Callable[[Failure], object] = lambda _failure: None,
) -> Counts:
    """Screen every line of `source` whose id is not in `out` yet, and append the answers to `out`.

    Args:
        source, out: paths, or `-` for the standard input and output.
        defaults: values for lines that give none.
        retry_unreadable: whether to screen ids again whose last answer could not be read.
        on_failure: called with each line that failed; the run continues.

    Raises:
        InputError: `source` cannot be read, or `out` cannot be written or contains something other than results.
        OSError: an answer cannot be written.
    """
    check_bulk(concurrency, "return")
    lines = Source(source)
    counts = Counts()
    with Results(out) as results:
        answered = _finished(results.outcomes, retry_unreadable)
        places = _Places(lines.lines(defaults), answered, counts)
        outcomes = as_completed(lambda _, run: places.screen_next(client, run), places, concurrency, on_error="return")
        with closing(outcomes), progress_bar(shown=progress, total=lines.count()) as bar:
            for completed in outcomes:
                outcome = completed.result
                if isinstance(outcome, ScreeningClientError):
                    outcome = Failure(None, outcome)
                if isinstance(outcome, Failure):
                    counts.failed += 1
                    on_failure(outcome)
                elif outcome is not None:
                    line, screening = outcome
                    results.add(line.id, screening)
                    counts.screened += 1
                    counts.unreadable += not screening.answered
                bar.update(counts.done - bar.n)
    lines.close()
    return counts


class _Places:
    """An iterable of free places. A thread with a place reads the next line, so that a slow pipe delays no answer."""

    def __init__(self, lines: Iterator[Line], answered: set[str], counts: Counts) -> None:
        self._lines = lines
        self._answered = answered
        self._counts = counts
        self._lock = threading.Lock()
        self._ended = False

    def __iter__(self) -> Iterator[None]:
        while not self._ended:
            yield None

    def screen_next(self, client: Client, run: Run) -> tuple[Line, Screening] | Failure | None:
        """Screen the next line. Returns None if there are no more lines."""
        line = self._take()
        if line is None:
            return None
        if isinstance(line.request, InputError):
            return Failure(line, line.request)
        try:
            _check_files(line.request)
            return line, client._screen(line.request, run)
        except ScreeningClientError as error:
            return Failure(line, error)
        except Exception as error:  # noqa: BLE001 - a boundary: one line must not end the batch
            return Failure(line, InputError(f"cannot be sent: {type(error).__name__}: {error}"))

    def _take(self) -> Line | None:
        with self._lock:
            for line in self._lines:
                # Every run reports a bad line again, because a second line with the same id may be another product.
                if isinstance(line.request, InputError) or str(line.id) not in self._answered:
                    return line
                self._counts.skipped += 1
            self._ended = True
            return None


def _finished(outcomes: Mapping[str, str], retry_unreadable: bool) -> set[str]:
    return {each for each, outcome in outcomes.items() if not (retry_unreadable and outcome == UNREADABLE)}


def _check_files(request: ScreenRequest) -> None:
    """Refuse pipes and devices, which may never end. The client itself reports files that do not exist."""
    for path in (request.original, *request.generated):
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file")
