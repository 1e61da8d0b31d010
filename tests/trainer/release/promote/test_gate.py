"""The criteria of the gate, with numbers calculated by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from screening.checkpoint.registry import Registry
from tests.trainer.published import say
from tests.trainer.release.promote.shop import OLD_WRONG, Shop, criteria
from trainer.release.promote.gate import Criterion, bootstrap_bound


def failed(found: dict[str, Criterion]) -> set[str]:
    return {name for name, one in found.items() if not one.passed}


def test_only_dimensions_that_the_candidate_was_trained_on_have_criteria(shop: Shop) -> None:
    from screening.task import Dimension

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
    from screening.task import Dimension
    from trainer.data_directory import read_samples
    from trainer.metrics import shows

    samples = read_samples(shop.data)
    without = {d: [n for n, one in enumerate(samples) if not shows(one, d)] for d in Dimension}
    spared = Dimension.SHADOW
    # All mistakes are on samples without shadow defects: the shadow score stays, and the others fall.
    found = criteria(shop, {}, {"wrong": without[spared]})
    assert f"score, {spared.title}, against production" not in failed(found)
    assert "score, against production" in failed(found)


def test_a_test_set_of_labels_alone_is_judged_without_dimensions(
    tmp_path: Path, registry_file: Path, data: Path
) -> None:
    alone = tmp_path / "labels"
    alone.mkdir()
    (alone / "pictures").symlink_to(data / "pictures")
    lines = []
    for line in (data / "samples.jsonl").read_text().splitlines():
        record = json.loads(line)
        generated = [picture["file"] for picture in record["generated"]]
        lines.append(json.dumps({**record, "generated": generated}) + "\n")
    (alone / "samples.jsonl").write_text("".join(lines))
    shop = Shop(tmp_path, Registry(f"sqlite:///{registry_file}"), alone)
    assert shop.promote("v1", shop.version("v1", wrong=OLD_WRONG)) == 0
    assert shop.promote("v2", shop.version("v2"), production="v1") == 0
    gate = shop.gate("2-v2")
    assert not [one["name"] for one in gate["criteria"] if one["name"].startswith("score, ")]
    assert "no dimension has a criterion" in (tmp_path / "gate-2-v2" / "gate.md").read_text()
    assert shop.promote("bad", shop.version("bad", wrong=range(200)), production="v2") == 1
    (comparison,) = (tmp_path / "gate-3-bad").glob("compare-*/comparison.json")
    assert {flip["dimensions"] for flip in json.loads(comparison.read_text())["flips"]} == {None}


def test_the_bootstrap_is_certain_where_nothing_varies_and_fair_where_it_does() -> None:
    label = np.array([True] * 50 + [False] * 50)
    assert bootstrap_bound(label, label, label, level=0.95) == 0.0
    worse = label.copy()
    worse[50:70] = True  # precision 50 / 70
    bound = bootstrap_bound(label, label, worse, level=0.95)
    # A share of 20 in 70 has a standard error of 5.4 points: one-sided 95 % is 1.64 of them below -28.6.
    assert bound == pytest.approx(-28.6 - 1.64 * 5.4, abs=1.5)
    assert bootstrap_bound(label, label, np.zeros(100, bool), level=0.95) is None
