"""The options, outcomes and progress reports that all bulk runs share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from screening_client.errors import InputError, ScreeningClientError

OnError: TypeAlias = Literal["raise", "return"]

Progress: TypeAlias = "bool | Callable[[int, int | None], object]"
"""Whether to show a bar on stderr, or a function that gets the number of finished requests and, if known, the total."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome", covariant=True)


@dataclass(frozen=True, slots=True)
class Completed(Generic[Item, Outcome]):
    """One request of a bulk run and its result."""

    index: int
    """Position of the request in the iterable, starting at 0."""
    request: Item = field(repr=False)
    result: Outcome
    """The screening or, with `on_error="return"`, the error of a failed request."""


def check_bulk(concurrency: int, on_error: str) -> None:
    """Check the options before the first item is taken.

    Raises:
        InputError: `concurrency` is below 1, or `on_error` is unknown.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InputError(f"concurrency must be a whole number, 1 or more, not {concurrency!r}")
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")


def progress_bar(*, shown: bool, total: int | None) -> tqdm[Any]:
    """Return a progress bar on stderr, which shows nothing if stderr is not a terminal."""
    disable = None if shown and sys.stderr is not None else True  # None disables it unless stderr is a terminal
    return tqdm(total=total, unit="screening", disable=disable, dynamic_ncols=True)


@contextmanager
def reporting(items: object, progress: Progress) -> Iterator[Callable[[], object]]:
    """Yield a function that must be called after each outcome."""
    total = len(items) if isinstance(items, Sized) else None
    if callable(progress):
        done = count(1)
        yield lambda: progress(next(done), total)
    else:
        with progress_bar(shown=progress, total=total) as bar:
            yield bar.update


def in_order(completed: dict[int, Result]) -> list[Result]:
    """Return the results as a list in the order of the items."""
    return [completed[index] for index in sorted(completed)]


def checked(outcome: Completed[Item, Result | BaseException]) -> Completed[Item, Result | ScreeningClientError]:
    """Return an outcome with a result or an error of this package. Any other exception ends the whole run."""
    result = outcome.result
    if isinstance(result, BaseException) and not isinstance(result, ScreeningClientError):
        raise result
    return Completed(outcome.index, outcome.request, result)
