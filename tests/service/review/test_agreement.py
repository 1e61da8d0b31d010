"""Agreement: the coefficients of two published implementations, on their own examples."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest

from service.review.agreement import agreement

# The examples of irrCAC 0.4.4, one row for each unit, `.` for a missing value.
FOUR_RATERS = "11.1 2232 3333 3333 2222 1234 4444 1121 2222 .555 ..11 ..3."
FIVE_OBSERVERS = "112.2 1101. 2333. .00.0 000.0 000.0 102.1 1.20. 222.2 2111. .100. 0000. 1222. 33223 111.1"
GENDER = "aaac aabc aabc aacc abaa baaa bbbb bcbb cccc aaac aabc aabc aacc abaa baaa"


def counts_of(units: str) -> np.ndarray:
    """Units as words of one letter per person → how many people chose each category."""
    categories = sorted(set(units) - {" ", "."})
    return np.array([[unit.count(category) for category in categories] for unit in units.split()], dtype=float)


@pytest.mark.parametrize(
    ("units", "raw", "alpha", "ac1"),
    [
        # Printed by irrCAC 0.4.4 with pandas 2.3.3 (it counts missing values as a category with pandas 3).
        (FOUR_RATERS, 0.8181818182, 0.7434210526, 0.7754440681),
        (FIVE_OBSERVERS, 0.6155555556, 0.4805302403, 0.4966220549),
        (GENDER, 0.4555555556, 0.1434074074, 0.2080808081),
    ],
)
def test_coefficients_equal_those_of_irrcac(units, raw, alpha, ac1) -> None:
    counts = counts_of(units)
    found = agreement(counts, list(map(str, range(len(counts)))))
    assert (found.raw, found.alpha, found.ac1) == pytest.approx((raw, alpha, ac1), abs=1e-9)
    assert found.pairs == sum(len(unit.replace(".", "")) >= 2 for unit in units.split())


def test_alpha_equals_that_of_krippendorff() -> None:
    data = [[np.nan] * 5 + [3, 4, 1, 2, 1, 1, 3, 3, np.nan, 3],
            [1, np.nan, 2, 1, 3, 3, 4, 3] + [np.nan] * 7,
            [np.nan, np.nan, 2, 1, 3, 4, 4, np.nan, 2, 1, 1, 3, 3, np.nan, 4]]  # fmt: skip
    random = np.random.default_rng(7)
    noisy = np.where(random.random((3, 60)) < 0.2, np.nan, (random.random((3, 60)) < 0.85).astype(float))
    for example in (np.array(data), noisy):
        categories = np.unique(example[~np.isnan(example)])
        counts = (example.T[:, :, None] == categories).sum(axis=1).astype(float)
        expected = krippendorff.alpha(reliability_data=example, level_of_measurement="nominal")
        assert agreement(counts, list(map(str, range(len(counts))))).alpha == pytest.approx(expected)


def test_intervals_hold_the_coefficient_and_are_repeatable() -> None:
    counts = counts_of(GENDER)
    groups = [str(number // 3) for number in range(len(counts))]
    found = agreement(counts, groups)
    assert found == agreement(counts, groups)
    for value, interval in ((found.alpha, found.alpha_interval), (found.ac1, found.ac1_interval)):
        assert interval[0] < value < interval[1]


def test_an_interval_counts_the_pictures_of_a_task_as_one_observation() -> None:
    counts = np.repeat(counts_of("aa ab bb ab aa bb"), 20, axis=0)
    each, together = (
        agreement(counts, list(map(str, range(120)))),
        agreement(counts, [str(n // 20) for n in range(120)]),
    )
    width = lambda interval: interval[1] - interval[0]  # noqa: E731
    assert each.ac1 == together.ac1 and width(together.ac1_interval) > 3 * width(each.ac1_interval)


@pytest.mark.parametrize(("units", "pairs"), [("", 0), ("a. .b", 0), ("aa aa", 2)])
def test_what_is_not_defined_is_none(units, pairs) -> None:
    counts = counts_of(units).reshape(-1, max(1, len(set(units) - {" ", "."})))
    if counts.shape[1] == 1:
        counts = np.hstack([counts, np.zeros_like(counts)])
    found = agreement(counts, list(map(str, range(len(counts)))))
    assert (found.pairs, found.alpha) == (pairs, None)
    assert (found.raw, found.ac1) == ((None, None) if pairs == 0 else (1.0, 1.0))
