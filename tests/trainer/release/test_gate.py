# ruff: noqa: F811 - fixtures of another module
"""The criteria of the gate: how a candidate is compared with production and with the floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.checkpoint.registry import Registry
from screening.task import Dimension
from tests.trainer.published import make_checkpoint, make_evaluation, say
from tests.trainer.release.test_promote import OLD_WRONG, Shop, data, shop  # noqa: F401
from trainer.evaluation.compare.pairs import read_pairs
from trainer.release.promote.gate import Criterion, bootstrap_bound, measure_criteria
from trainer.release.promote.limits import Limits
from trainer.release.promote.report import title

pytestmark = [pytest.mark.fork_server, pytest.mark.slow]


def criteria(shop: Shop, old: dict[str, Any], new: dict[str, Any], **trained: Any) -> dict[str, Criterion]:
    sides = [
        make_evaluation(shop.folder / name, shop.data, make_checkpoint(shop.folder / f"c-{name}", name), **answers)
        for name, answers in (("old", old), ("new", new))
    ]
    return {
        title(one): one for one in measure_criteria(read_pairs(*sides, shop.data), Limits(), first=False, **trained)
    }


def failed(found: dict[str, Criterion]) -> set[str]:
    return {name for name, one in found.items() if not one.passed}


def test_only_dimensions_that_the_candidate_was_trained_on_have_criteria(shop: Shop) -> None:
    found = criteria(shop, {"wrong": OLD_WRONG}, {"wrong": OLD_WRONG}, dimensions=(Dimension.SHADOW,))
    named = {dimension for dimension in Dimension if any(dimension.title in name for name in found)}
    assert named == {Dimension.SHADOW}


def test_the_same_answers_pass_everything(shop: Shop) -> None:
    found = criteria(shop, {"wrong": OLD_WRONG}, {"wrong": OLD_WRONG})
    assert failed(found) == set()
    assert found["score, against production"].candidate == found["score, against production"].production
    assert found["N recall, against production"].n == 40


def test_answers_that_cannot_be_read_fail_by_name(shop: Shop) -> None:
    found = criteria(shop, {}, {"texts": dict.fromkeys(range(0, 200, 12), "no answer")})
    assert {"unreadable, floor", "unreadable, against production"} <= failed(found)
    assert found["unreadable, floor"].measured == pytest.approx(100 * 17 / 200)


def test_never_saying_none_fails_recall_and_precision(shop: Shop) -> None:
    none = [n for n in range(200) if n % 10 in (4, 7)]
    found = criteria(shop, {}, {"texts": {n: say("A") for n in none}})
    assert {"N recall, floor", "N recall, against production", "N precision, floor"} <= failed(found)
    assert found["N recall, floor"].measured == 0 and found["N precision, floor"].measured is None


def test_a_production_that_never_says_none_is_nothing_to_be_worse_than(shop: Shop) -> None:
    none = [n for n in range(200) if n % 10 in (4, 7)]
    found = criteria(shop, {"texts": {n: say("A") for n in none}}, {"wrong": range(0, 200, 20)})
    precision = found["N precision, against production"]
    assert (precision.production, precision.measured, precision.passed) == (None, None, True)
    assert failed(found) == set()


def test_a_production_whose_answers_cannot_be_read_is_replaced_without_force(shop: Shop) -> None:
    shop.version("broken", texts=dict.fromkeys(range(200), "no answer"))
    assert shop.run("promote", "1", "--force", "--reason", "by mistake") == 0
    shop.version("mended", wrong=range(0, 200, 20))
    assert shop.promote("mended", 2, production="broken") == 0
    assert shop.production() == 2
    unmeasured = {one["name"] for one in shop.gate("2-mended")["criteria"] if one["measured"] is None}
    assert unmeasured == {"N precision", "position of choices", "calibration error"}
    assert "Where production has no value" in (shop.folder / "gate-2-mended" / "gate.md").read_text()


def test_saying_none_too_often_fails_precision(shop: Shop) -> None:
    found = criteria(shop, {}, {"texts": {n: say("N") for n in range(200) if n % 10 in (0, 2)}})
    assert "N precision, against production" in failed(found)
    assert found["N precision, floor"].measured == pytest.approx(50)


def test_a_tilt_towards_one_position_fails(shop: Shop) -> None:
    found = criteria(shop, {}, {"texts": {n: say("A") for n in range(200) if n % 10 in (1, 2, 3)}})
    assert {"position of choices, floor", "position of choices, against production"} <= failed(found)


def test_false_confidence_fails(shop: Shop) -> None:
    found = criteria(shop, {"confidence": 0.99}, {"confidence": 0.6})
    assert failed(found) == {"calibration error, floor", "calibration error, against production"}
    assert found["calibration error, floor"].measured == pytest.approx(0.4)


def test_guessing_fails_the_floor_of_the_score(shop: Shop) -> None:
    found = criteria(shop, {}, {"texts": {n: say("ABCDN"[n // 10 % 5]) for n in range(200)}})
    assert "score, floor" in failed(found)


def test_one_dimension_alone_can_fail(shop: Shop) -> None:
    from trainer.data_directory import read_samples
    from trainer.metrics import shows

    samples = read_samples(shop.data)
    without = {d: [n for n, one in enumerate(samples) if not shows(one, d)] for d in Dimension}
    spared = Dimension.SHADOW
    # All mistakes are on samples without shadow defects: the shadow score stays, and the others fall.
    found = criteria(shop, {}, {"wrong": without[spared]})
    assert f"score, {spared.title}, against production" not in failed(found)
    assert "score, against production" in failed(found)


def test_the_bootstrap_is_certain_where_nothing_varies_and_fair_where_it_does() -> None:
    label = np.array([True] * 50 + [False] * 50)
    assert bootstrap_bound(label, label, label, level=0.95) == 0.0
    worse = label.copy()
    worse[50:70] = True  # precision 50 / 70
    bound = bootstrap_bound(label, label, worse, level=0.95)
    # A share of 20 in 70 has a standard error of 5.4 points: one-sided 95 % is 1.64 of them below -28.6.
    assert bound == pytest.approx(-28.6 - 1.64 * 5.4, abs=1.5)
    assert bootstrap_bound(label, label, np.zeros(100, bool), level=0.95) is None


def test_the_bootstrap_draws_whole_products() -> None:
    label = np.array([True] * 50 + [False] * 50)
    worse = label.copy()
    worse[50:70] = True
    alone = bootstrap_bound(label, label, worse, level=0.95)
    own = [str(number) for number in range(100)]
    assert bootstrap_bound(label, label, worse, level=0.95, products=own) == alone
    label, worse = np.repeat(label, 8), np.repeat(worse, 8)
    together = bootstrap_bound(label, label, worse, level=0.95, products=[name for name in own for _ in range(8)])
    assert together == pytest.approx(alone)


def test_several_samples_of_one_product_count_as_fewer(
    shop: Shop, tmp_path: Path, registry_file: Path, data: Path
) -> None:
    together = tmp_path / "together"
    together.mkdir()
    (together / "pictures").symlink_to(data / "pictures")
    lines = [json.loads(line) for line in (data / "samples.jsonl").read_text().splitlines()]
    lines = [line | {"product": f"p{number // 8}"} for number, line in enumerate(lines)]
    (together / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    other = Shop(tmp_path / "other", Registry(f"sqlite:///{registry_file}"), together)
    other.folder.mkdir()
    # All answers about the first product are wrong now.
    answers: list[dict[str, Any]] = [{"wrong": OLD_WRONG}, {"wrong": {*OLD_WRONG, *range(8)}}]
    plain, found = (criteria(one, *answers)["score, against production"] for one in (shop, other))
    assert plain.measured is not None and found.measured is not None
    assert (found.candidate, found.production, found.n) == (plain.candidate, plain.production, plain.n)
    assert found.measured < plain.measured - 2

    other.version("one", wrong=OLD_WRONG)
    assert other.promote("one", 1) == 0
    page = (other.folder / "gate-1-one" / "gate.md").read_text()
    assert "200 samples of 25 products." in page and "the bootstrap draws whole products" in page
    assert other.gate("1-one")["products"] == 25
