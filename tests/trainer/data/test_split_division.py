"""Which split a product goes to: by shares and seed, and never two of them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.data.split_data import many, record, report, split, tree, unlabelled, where, write
from trainer.data.split.assign import Item, Split, assign, place, shares_of, split_at
from trainer.data.split.command import add_arguments
from trainer.data.split.divide import SPLIT_NAME
from trainer.records import Sample, Unlabelled

pytestmark = pytest.mark.slow

EVEN = shares_of([1, 1, 1, 1])


def item(name: str, product: str, pictures: tuple[str, ...]) -> Item:
    sample = Sample.model_validate(record(name, product))
    return Item(sample, b"", Path(), pictures)


def test_the_default_shares_are_the_papers_sizes() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    shares = parser.parse_args(["--data", "d", "--out", "o"]).shares
    assert shares == {
        Split.TRAINING: Fraction(1_044, 128_045),
        Split.TESTING: Fraction(468, 128_045),
        Split.PSEUDO_LABEL: Fraction(10_724, 128_045),
        Split.EXPLORATION: Fraction(115_809, 128_045),
    }


def test_a_place_belongs_to_the_stretch_it_lies_in() -> None:
    shares = shares_of([2, 1, 0, 1])
    half, quarter = 1 << 63, 1 << 62
    expected = {
        0: Split.TRAINING,
        half - 1: Split.TRAINING,
        half: Split.TESTING,
        half + quarter - 1: Split.TESTING,
        half + quarter: Split.EXPLORATION,  # nothing lies in an empty stretch
        2 * half - 1: Split.EXPLORATION,
    }
    assert {position: split_at(position, shares) for position in expected} == expected


def test_products_spread_as_the_shares_say() -> None:
    shares = shares_of([Fraction("0.5"), Fraction("0.3"), Fraction("0.15"), Fraction("0.05")])
    placed = [split_at(place(f"product {number}", 7), shares) for number in range(20_000)]
    assert {one: round(placed.count(one) / 20_000, 2) for one in shares} == {
        Split.TRAINING: 0.5,
        Split.TESTING: 0.3,
        Split.PSEUDO_LABEL: 0.15,
        Split.EXPLORATION: 0.05,
    }


@pytest.mark.parametrize("weights", [[1, 1, 1], [0, 0, 0, 0], [1, 1, 1, -1]])
def test_weights_that_are_not_shares_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="give 4 weights"):
        shares_of(weights)


items = st.lists(
    st.tuples(
        st.sampled_from(["", "p1", "p2", "p3", "p4", "p5", "p6"]),
        st.lists(st.integers(0, 40), min_size=5, max_size=5),
    ),
    max_size=14,
).map(
    lambda drawn: [
        item(f"s{number}", product, tuple(f"d{digest}" for digest in digests))
        for number, (product, digests) in enumerate(drawn)
    ]
)


def leaks(items: list[Item], assigned: dict[str, Split | None]) -> set[str]:
    """Products and pictures that are in two splits."""
    seen: dict[str, set[Split]] = {}
    for one in items:
        if (where := assigned[one.sample.id]) is not None:
            for tie in one.ties:
                seen.setdefault(tie, set()).add(where)
    return {tie for tie, splits in seen.items() if len(splits) > 1}


@given(items, st.integers(0, 3), st.randoms())
def test_nothing_is_in_two_splits_whatever_is_shared_and_in_any_order(items: list[Item], seed: int, rng: Any) -> None:
    assigned = assign(items, EVEN, seed, {})
    assert not leaks(items, assigned)
    assert None not in assigned.values()  # without a past, everything has a place
    shuffled = list(items)
    rng.shuffle(shuffled)
    assert assign(shuffled, EVEN, seed, {}) == assigned


@given(items, st.integers(0, 14))
def test_more_data_moves_nothing_and_leaks_nothing(items: list[Item], first: int) -> None:
    before = assign(items[:first], EVEN, 0, {})
    earlier = {name: one for name, one in before.items() if one is not None}
    after = assign(items, EVEN, 0, earlier)
    assert {name: after[name] for name in before} == before
    assert not leaks(items, after)
    known = {one.product: before[one.sample.id] for one in items[:first]}
    for one in items[first:]:
        assert after[one.sample.id] in (None, known.get(one.product, after[one.sample.id]))


def test_a_product_keeps_its_split_without_any_memory_too(tmp_path: Path) -> None:
    small = write(tmp_path / "small", *many(0, 12))
    large = write(tmp_path / "large", *many(0, 24))
    assert split(tmp_path / "one", small) == split(tmp_path / "two", large) == 0
    one, two = where(tmp_path / "one"), where(tmp_path / "two")
    assert len(one) == 24
    assert {name: two[name] for name in one} == one
    assert len(set(one.values())) == 3


def test_another_seed_is_another_division(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 20))
    assert split(tmp_path / "one", data, seed=1) == split(tmp_path / "two", data, seed=2) == 0
    assert where(tmp_path / "one") != where(tmp_path / "two")


def test_the_order_of_the_data_changes_nothing(tmp_path: Path) -> None:
    first = write(tmp_path / "first", *many(0, 12))
    second = write(tmp_path / "second", *many(12, 20))
    assert split(tmp_path / "one", first, second) == split(tmp_path / "two", second, first) == 0
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert {name for name in one if one[name] != two.get(name)} <= {SPLIT_NAME}
    assert report(tmp_path / "one")["splits"] == report(tmp_path / "two")["splits"]


mixed = st.tuples(items, st.lists(st.booleans(), min_size=14, max_size=14)).map(
    lambda drawn: [
        one
        if labelled
        else replace(one, sample=Unlabelled.model_validate(unlabelled(one.sample.id, one.sample.product)))
        for one, labelled in zip(drawn[0], drawn[1], strict=False)
    ]
)


@given(mixed, st.integers(0, 14))
def test_with_and_without_labels_nothing_tested_is_trained_on_and_nothing_moves(items: list[Item], first: int) -> None:
    before = assign(items[:first], EVEN, 0, {})
    earlier = {name: one for name, one in before.items() if one is not None}
    after = assign(items, EVEN, 0, earlier)
    assert earlier.items() <= after.items()
    tested = {tie for one in items if after[one.sample.id] is Split.TESTING for tie in one.ties}
    for one in items:
        split = after[one.sample.id]
        assert one.labelled or split in (None, Split.PSEUDO_LABEL, Split.EXPLORATION)
        assert split in (None, Split.TESTING) or not tested & set(one.ties)
