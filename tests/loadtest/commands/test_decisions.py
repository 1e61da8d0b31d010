"""The comparison of a service with a decision store and one without."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.commands.decisions import ratio


def test_a_constant_ratio_has_an_interval_of_no_width() -> None:
    found = ratio([(10.0, 9.0), (20.0, 18.0), (5.0, 4.5)], seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.9, 0.9, 0.9))


def test_the_interval_spans_the_rounds() -> None:
    pairs = [(1.0, exp(0.1)), (1.0, exp(-0.1))] * 10
    found = ratio(pairs, seed=1)
    assert found.mean == pytest.approx(1.0)
    assert 0.9 < found.low < 0.98 and 1.02 < found.high < 1.11


@pytest.mark.slow
def test_both_services_are_measured_and_every_decision_is_stored(tmp_path: Path) -> None:
    words = ["--rounds", "2", "--requests", "8", "--clients", "2", "--picture-sizes", "96x96", "--limit-percent", "900"]
    assert main(["decisions", *words, "--out", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["rounds"]) == 2
    for one in figures["rounds"]:
        assert all(one[store]["level"]["requests"] == 8 and one[store]["cpu_ms"] > 0 for store in ("off", "on"))
    stored = [one for one in figures["verdicts"] if one["criterion"] == "answers that were not stored"]
    assert stored[0]["found"] == "0"
