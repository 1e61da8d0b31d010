"""What bulk runs have in common: their options, their outcomes and the report of their progress."""

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
"""A bar on stderr or none, or a function that is told how many are done, and of how many if that is known."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome", covariant=True)


@dataclass(frozen=True, slots=True)
class Completed(Generic[Item, Outcome]):
    """One request of many, and what became of it."""

    index: int
    """The position of the request in the iterable, from 0."""
    request: Item = field(repr=False)
    result: Outcome
    """The screening, or with `on_error="return"` the error in its place."""


def check_bulk(concurrency: int, on_error: str) -> None:
    """Refuse unusable options before the first item is taken.

    Raises:
        InputError: `concurrency` below 1 or an unknown `on_error`.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InputError(f"concurrency must be a whole number, 1 or more, not {concurrency!r}")
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")


def progress_bar(*, shown: bool, total: int | None) -> tqdm[Any]:
    """A bar on stderr; none where stderr is not a terminal."""
    disable = None if shown and sys.stderr is not None else True  # None: unless it is a terminal
    return tqdm(total=total, unit="screening", disable=disable, dynamic_ncols=True)


@contextmanager
def reporting(items: object, progress: Progress) -> Iterator[Callable[[], object]]:
    """Gives a function to call after each outcome."""
    total = len(items) if isinstance(items, Sized) else None
    if callable(progress):
        done = count(1)
        yield lambda: progress(next(done), total)
    else:
        with progress_bar(shown=progress, total=total) as bar:
            yield bar.update


def in_order(completed: dict[int, Result]) -> list[Result]:
    """Results by position → a list in the order of the items."""
    return [completed[index] for index in sorted(completed)]


def checked(outcome: Completed[Item, Result | BaseException]) -> Completed[Item, Result | ScreeningClientError]:
    """Our own errors are outcomes; any other is a fault that ends the whole run."""
    result = outcome.result
    if isinstance(result, BaseException) and not isinstance(result, ScreeningClientError):
        raise result
    return Completed(outcome.index, outcome.request, result)
