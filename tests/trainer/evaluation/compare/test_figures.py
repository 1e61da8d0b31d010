"""Comparison of two evaluations: numbers calculated by hand."""

from __future__ import annotations

import re
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.answer import Mode
from tests.trainer.evaluation.compare.evaluations import (
    LABELS,
    WRONG,
    compare,
    make_data,
    make_evaluation,
    result,
    think,
)
from trainer.evaluation.compare.paired import difference_interval, mcnemar_exact, paired, sign_flip_exact

pytestmark = pytest.mark.slow

counts = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@pytest.mark.parametrize(
    ("worse", "better", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        (1, 5, 2 * (1 + 6) / 64),
        (5, 1, 2 * (1 + 6) / 64),
        (0, 10, 2 / 1024),
        (1, 7, 18 / 256),  # airway reactivity before and after a transplantation, Fagerland et al. 2013
    ],
)
def test_the_exact_test_equals_a_calculation_by_hand(worse: int, better: int, p: float) -> None:
    assert mcnemar_exact(worse, better) == p


def test_the_exact_test_is_the_binomial_tail_for_counts_that_floats_cannot_hold() -> None:
    tail = Fraction(2 * sum(comb(5000, k) for k in range(2401)), 2**5000)
    assert mcnemar_exact(2400, 2600) == pytest.approx(float(tail), rel=1e-12)
    assert mcnemar_exact(0, 5000) == 0.0  # too small for a float; no error is raised
    with pytest.raises(ValueError, match="must not be negative"):
        mcnemar_exact(-1, 2)


@pytest.mark.parametrize(
    ("table", "bounds"),
    [
        # Newcombe 1998, table II, method 10; the paper's e, f, g, h with its difference (f - g) / n.
        ((36, 2, 12, 0), (0.0569, 0.3404)),
        # Bentur 2009 in Fagerland, Lydersen, Laake 2014: -0.507 to -0.026 for before - after.
        ((1, 7, 1, 12), (-0.5069, -0.0256)),
    ],
)
def test_published_intervals_are_met(table: tuple[int, int, int, int], bounds: tuple[float, float]) -> None:
    assert difference_interval(*table) == pytest.approx(bounds, abs=6e-5)


@given(counts)
def test_the_interval_contains_the_difference_and_is_symmetric(table: tuple[int, int, int, int]) -> None:
    both, worse, better, neither = table
    low, high = difference_interval(*table)
    assert -1 <= low <= (better - worse) / sum(table) <= high <= 1
    assert low < high
    mirrored = difference_interval(both, better, worse, neither)
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)


def test_an_interval_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no interval"):
        difference_interval(0, 0, 0, 0)
    nothing = paired([])
    assert (nothing.n, nothing.before, nothing.difference, nothing.low, nothing.p_value) == (0, None, None, None, None)


def test_overall_and_dimension_scores_equal_a_calculation_by_hand(
    tmp_path: Path, before: Path, after: Path, data: Path
) -> None:
    assert compare(before, after, tmp_path / "out", data) == 0
    found = result(tmp_path / "out")
    overall = found["overall"]
    assert [overall[key] for key in ("n", "both_right", "right_to_wrong", "wrong_to_right", "both_wrong")] == [
        5,
        2,
        1,
        2,
        0,
    ]
    assert (overall["before"], overall["after"], overall["difference"]) == (60, 80, 20)
    assert overall["p_value"] == 1.0
    low, high = difference_interval(2, 1, 2, 0)
    assert (overall["low"], overall["high"]) == pytest.approx((100 * low, 100 * high))
    shadow, layout = found["dimensions"]["physical_shadow"], found["dimensions"]["placement_layout"]
    assert (shadow["n"], shadow["right_to_wrong"], shadow["wrong_to_right"]) == (3, 0, 2)
    assert shadow["p_value"] == 0.5
    assert (layout["n"], layout["right_to_wrong"], layout["wrong_to_right"]) == (1, 1, 0)  # s3 has no issue at all
    assert found["dimensions"]["extension_rationality"]["n"] == 0
    assert (found["before"]["name"], found["after"]["name"], found["mode"]) == ("old", "new", "cot")


def test_flips_hold_label_answers_and_dimensions(tmp_path: Path, before: Path, after: Path, data: Path) -> None:
    assert compare(before, after, tmp_path / "out", data) == 0
    flips = result(tmp_path / "out")["flips"]
    assert [(flip["id"], flip["direction"], flip["label"]) for flip in flips] == [
        ("s1", "right_to_wrong", "N"),
        ("s2", "wrong_to_right", "B"),
        ("s4", "wrong_to_right", "D"),
    ]
    assert flips[0]["dimensions"] == ["placement_layout"]
    assert (flips[0]["before"]["options"], flips[0]["after"]["options"]) == ("N", "A")
    assert flips[1]["before"]["reasoning"].startswith("I observed <A> normal")
    assert (flips[2]["before"]["options"], flips[2]["before"]["unreadable"]) == (None, "no_think")
    assert flips[2]["before"]["text"] == "no answer"
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert "+20.00 points" in table
    assert re.search(r"\| s4 +\| wrong → right \| +D \| unreadable: no_think \| +D \| +shadow \|", table)
    assert re.search(r"\| physical shadow +\| +33.33 \| +100.00 \| +\+66.67 ", table)


def test_a_checkpoint_against_itself_flips_nothing(tmp_path: Path, before: Path, data: Path) -> None:
    assert compare(before, before, tmp_path / "out", data) == 0
    found = result(tmp_path / "out")
    assert found["flips"] == []
    assert (found["overall"]["difference"], found["overall"]["p_value"]) == (0, 1)
    assert found["overall"]["low"] < 0 < found["overall"]["high"]


def test_without_the_data_there_are_no_dimensions_and_no_pictures(tmp_path: Path, before: Path, after: Path) -> None:
    assert compare(before, after, tmp_path / "out") == 0
    found = result(tmp_path / "out")
    assert found["dimensions"] is None
    assert [flip["dimensions"] for flip in found["flips"]] == [None] * 3
    assert found["overall"]["difference"] == 20
    page = (tmp_path / "out" / "flips.html").read_text()
    assert page.count("<article") == 3 and "<img" not in page
    assert "dimensions of the samples are unknown" in (tmp_path / "out" / "comparison.md").read_text()


def test_direct_answers_are_compared_too(tmp_path: Path, data: Path) -> None:
    before = make_evaluation(tmp_path / "before", data, ["A", "A", "B", "E", "D"], name="old", mode=Mode.DIRECT)
    after = make_evaluation(tmp_path / "after", data, ["A", "N", "B", "AB", "D"], name="new", mode=Mode.DIRECT)
    assert compare(before, after, tmp_path / "out", data) == 0
    assert [(flip["id"], flip["before"]["unreadable"]) for flip in result(tmp_path / "out")["flips"]] == [
        ("s1", None),
        ("s3", "unknown_option"),
    ]


def test_limited_evaluations_are_compared_on_their_common_samples(tmp_path: Path, data: Path) -> None:
    right, wrong = [think(label) for label in LABELS], [think(WRONG[label]) for label in LABELS]
    before = make_evaluation(tmp_path / "before", data, wrong, name="old", limit=3)  # the log has all five answers
    after = make_evaluation(tmp_path / "after", data, right[:3], name="new", limit=3)
    for named, out in ((data, tmp_path / "one"), (None, tmp_path / "two")):
        assert compare(before, after, out, named) == 0
        assert (result(out)["overall"]["n"], len(result(out)["flips"])) == (3, 3)
    assert "3 samples (the first of 5)" in (tmp_path / "one" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], 1.0),
        ([0, 0], 1.0),
        ([8], 1.0),
        ([3, 1], 2 / 4),
        ([3, -1], 1.0),
        ([2, 2, 1], 2 / 8),
        ([2, -1, 1], 6 / 8),  # the sums are 4, 2, 2, 0 and their negatives
        ([-3, 0, -3, -3], 2 / 8),
    ],
)
def test_the_test_of_whole_products_equals_a_calculation_by_hand(differences: list[int], p: float) -> None:
    assert sign_flip_exact(differences) == p


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 8))
def test_products_that_differ_equally_much_are_tested_as_single_samples(worse: int, better: int, size: int) -> None:
    assert sign_flip_exact([-size] * worse + [size] * better) == pytest.approx(mcnemar_exact(worse, better), rel=1e-9)


RIGHT = [(True, True)] * 20 + [(True, False)] * 3 + [(False, True)] * 11 + [(False, False)] * 6
"""Answers before and after, about 40 samples."""


def test_samples_of_different_products_are_compared_as_without_products() -> None:
    assert paired(RIGHT, [str(number) for number in range(40)]) == paired(RIGHT)
    assert "products" not in paired(RIGHT).model_dump() and "effective" not in paired(RIGHT).model_dump()


def test_eight_equal_answers_about_each_product_say_as_much_as_one() -> None:
    alone = paired(RIGHT)
    found = paired([pair for pair in RIGHT for _ in range(8)], [str(number) for number in range(40) for _ in range(8)])
    assert (found.n, found.products, found.effective) == (320, 40, pytest.approx(40))
    assert (found.right_to_wrong, found.wrong_to_right) == (24, 88)
    assert (found.before, found.after, found.difference) == (alone.before, alone.after, alone.difference)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    assert found.p_value == pytest.approx(alone.p_value)
    assert found.bounds(0.9) == pytest.approx(alone.bounds(0.9))
    assert alone.bounds(0.9) == difference_interval(20, 3, 11, 6, 0.9)


def test_without_flips_each_sample_counts_since_a_single_flip_would_count_so_too() -> None:
    products = [str(number // 8) for number in range(400)]
    none = paired([(True, True)] * 400, products)
    assert (none.products, none.effective, none.p_value) == (50, 400, 1.0)
    assert none.bounds() == difference_interval(400, 0, 0, 0)
    one = paired([(True, False), *[(True, True)] * 399], products)
    assert one.effective == pytest.approx(400)


def test_a_comparison_names_the_products_if_they_have_several_samples(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", per_product=2)
    right, wrong = [think(label) for label in LABELS], [think(WRONG[label]) for label in LABELS]
    before = make_evaluation(tmp_path / "before", data, wrong, name="old")
    after = make_evaluation(tmp_path / "after", data, right[:4] + wrong[4:], name="new")
    expected = paired([(False, True)] * 4 + [(False, False)], ["p0", "p0", "p1", "p1", "p2"])
    for named, out in ((data, tmp_path / "one"), (None, tmp_path / "two")):
        assert compare(before, after, out, named) == 0
        overall = result(out)["overall"]
        assert (overall["products"], overall["p_value"]) == (3, 0.5)
        assert (overall["low"], overall["high"]) == pytest.approx((expected.low, expected.high))
        page = (out / "comparison.md").read_text()
        assert "5 samples of 3 products.\n" in page and "whole products" in page
