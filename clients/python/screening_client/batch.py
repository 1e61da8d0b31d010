"""A file of requests → a file of results that can be continued.

In:  `{"id": "4711", "original": "o.jpg", "generated": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]}` per line, optionally with
     `mode` and `metadata`; paths are relative to the file.
Out: `{"id": "4711", "screening": {…}}` per answer, in the order of arrival. Only answers are written, so running
     again does what is missing and what failed.
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
    """What a run did."""

    screened: int = 0
    skipped: int = 0
    failed: int = 0
    unreadable: int = 0
    """Of the screened, those without a decision: the model's text could not be read."""

    @property
    def done(self) -> int:
        return self.screened + self.skipped + self.failed


@dataclass(frozen=True, slots=True)
class Failure:
    """A line without an answer."""

    line: Line | None
    """None when the rest of the input cannot be read."""
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
    """Screen every line of `source` whose id is not in `out` yet, and append the answers.

    Args:
        source, out: paths, or `-` for the standard input and output.
        defaults: what holds for lines that do not say otherwise.
        retry_unreadable: ask again for ids whose last answer could not be read.
        on_failure: told of each line that failed; the run goes on.

    Raises:
        InputError: `source` cannot be read, or `out` cannot be written or is not a file of results.
        OSError: an answer could not be written.
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
    """An iterable of free places. A thread that has one takes the next line, so that a slow pipe holds up no answer."""

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
        """None when all lines were taken."""
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
        except Exception as error:  # noqa: BLE001 - a boundary: one line must not end the others
            return Failure(line, InputError(f"cannot be sent: {type(error).__name__}: {error}"))

    def _take(self) -> Line | None:
        with self._lock:
            for line in self._lines:
                # A bad line is told of in every run: a second line with an answered id may be another product.
                if isinstance(line.request, InputError) or str(line.id) not in self._answered:
                    return line
                self._counts.skipped += 1
            self._ended = True
            return None


def _finished(outcomes: Mapping[str, str], retry_unreadable: bool) -> set[str]:
    return {each for each, outcome in outcomes.items() if not (retry_unreadable and outcome == UNREADABLE)}


def _check_files(request: ScreenRequest) -> None:
    """Refuse pipes and devices, which could be read for ever. What does not exist is reported by the client."""
    for path in (request.original, *request.generated):
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file")
