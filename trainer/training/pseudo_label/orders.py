"""The orders in which the four pictures of a question are shown, and how an answer is mapped back.

An order is written as four letters: `BCDA` shows picture B in position A, C in B, D in C, and A in D. A model that
depends on positions gives different answers to the same pictures in different orders.
"""

from __future__ import annotations

from itertools import permutations

from screening.task import OPTIONS, Options

OWN_ORDER = "".join(OPTIONS)
"""The order of the data."""

_ROTATIONS = tuple(OWN_ORDER[turn:] + OWN_ORDER[:turn] for turn in range(len(OPTIONS)))

ORDERS: tuple[str, ...] = tuple(dict.fromkeys((*_ROTATIONS, *map("".join, permutations(OPTIONS)))))
"""All 24 orders. The first four are rotations, which show each picture once in each position; the data's own order is
the first one."""


def in_order(files: tuple[str, ...], order: str) -> tuple[str, ...]:
    """The five pictures of a question, original first, with the four generated ones in another order."""
    original, *generated = files
    return (original, *(generated[OPTIONS.index(letter)] for letter in order))


def mapped_back(options: Options, order: str) -> Options:
    """The options of an answer to an order, as options of the data. The empty set, `N`, stays empty."""
    return frozenset(order[OPTIONS.index(position)] for position in options)
