"""Promotion from end to end, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.registry import CANDIDATE
from tests.trainer.published import make_checkpoint, make_evaluation
from tests.trainer.release.promote.shop import OLD_WRONG, Shop
from trainer.evaluation.compare.paired import difference_interval
from trainer.release.promote.gate import Criterion
from trainer.release.promote.moves import read_history
from trainer.release.promote.report import title
from trainer.release.publish.register import register


def test_the_first_version_is_measured_against_floors_only(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.version("one", wrong=OLD_WRONG)
    assert shop.promote("one", 1) == 0
    assert shop.production() == 1
    gate = shop.gate("1-one")
    assert gate["production"] is None and {one["against_production"] for one in gate["criteria"]} == {False}
    assert len(gate["criteria"]) == 10 and all(one["passed"] for one in gate["criteria"])
    printed = capsys.readouterr().out
    assert "no version is in production" in printed and "production: no version → version 1" in printed


def test_a_better_version_passes_and_the_report_shows_the_flips(shop: Shop) -> None:
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=range(0, 200, 12))
    assert shop.promote("two", 2, "--reason", "more data", production="one") == 0
    assert shop.production() == 2
    kept = read_history(shop.registry).moves[-1]
    assert (kept.before, kept.kind, kept.by, kept.reason, kept.forced) == (1, "promote", "ann", "more data", False)
    assert kept.gate is not None and kept.gate.passed and kept.gate.criteria == 21
    page = (shop.folder / "gate-2-two" / "compare-1-2" / "flips.html").read_text()
    assert page.count("<article") == 17 and page.count("data:image/jpeg") == 5 * 17
    table = (shop.folder / "gate-2-two" / "gate.md").read_text()
    assert all(title(Criterion(**one)) in table for one in shop.gate("2-two")["criteria"])


def test_a_worse_version_is_not_promoted_and_says_why(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=range(0, 200, 4))
    assert shop.promote("two", 2, production="one") == 1
    assert shop.production() == 1 and len(read_history(shop.registry).moves) == 1
    assert "score, against production" in capsys.readouterr().err
    score = next(c for c in shop.gate("2-two")["criteria"] if title(Criterion(**c)) == "score, against production")
    # Wrong before: 0, 6, …; wrong after: 0, 4, …; both: 0, 12, …
    low = difference_interval(133, 33, 17, 17, level=0.9)[0]
    assert score["measured"] == pytest.approx(100 * low) and score["limit"] == -3.0


def test_force_needs_a_reason_and_both_are_kept(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=range(0, 200, 2))
    assert shop.promote("two", 2, "--force", production="one") == 2
    assert "--reason" in capsys.readouterr().err
    assert shop.promote("two", 2, "--force", "--reason", "the old one shows a recalled product", production="one") == 0
    kept = read_history(shop.registry).moves[-1]
    assert kept.forced and kept.gate is not None and "score, against production" in kept.gate.failed
    assert shop.run("history") == 0
    printed = capsys.readouterr().out
    assert "forced: " in printed and "the old one shows a recalled product" in printed


def test_force_without_a_test_set_measures_nothing_and_reports_that(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.version("one")
    assert shop.run("promote", CANDIDATE, "--force", "--reason", "first day") == 0
    assert shop.production() == 1 and read_history(shop.registry).moves[0].gate is None
    shop.run("history")
    assert "forced, not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.promote("two", 3), "version 3 does not exist"),
        (lambda s: s.promote("one", 2, production="one"), "is an evaluation of sha256"),
        (lambda s: s.promote("two", 2, "--mode", "direct", production="one"), "in mode cot"),
        (lambda s: s.promote("two", "two"), "is not a version"),
        (lambda s: s.run("promote", "2"), "--data is missing"),
        (lambda s: s.promote("two", 2, "--limits", str(s.folder / "no.yaml"), production="one"), "no.yaml"),
        (lambda s: s.promote("two", 2, "--limits", str(s.folder / "bad.yaml"), production="one"), "margins.overal"),
        (lambda s: s.run("rollback", "--reason", "x"), "no version was in production before version 1"),
    ],
)
def test_wrong_input_is_reported_and_moves_nothing(
    change: Callable[[Shop], int], message: str, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.version("one", wrong=OLD_WRONG)
    shop.promote("one", 1)
    shop.version("two", wrong=OLD_WRONG)
    (shop.folder / "bad.yaml").write_text("margins: {overal: 5}\n")
    capsys.readouterr()
    assert change(shop) == 2
    assert message in capsys.readouterr().err
    assert shop.production() == 1 and len(read_history(shop.registry).moves) == 1


def test_limits_can_be_set(shop: Shop) -> None:
    shop.version("one", wrong=range(0, 200, 60))
    (shop.folder / "limits.yaml").write_text("floors: {calibration: 0.001}\n")
    assert shop.promote("one", 1, "--limits", str(shop.folder / "limits.yaml")) == 1
    assert shop.gate("1-one")["limits"]["floors"]["calibration"] == 0.001


def test_part_of_the_data_training_data_and_unproved_checkpoints_are_refused(
    shop: Shop, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.data_directory import data_digest, read_samples
    from trainer.evaluation.evaluate.result import EvaluatedData

    digest = data_digest(data, read_samples(data))
    shop.version("part", data=EvaluatedData(digest=digest, samples=210, evaluated=200))
    assert shop.promote("part", 1) == 2 and "a part of the samples" in capsys.readouterr().err
    seen = make_checkpoint(shop.folder / "store" / "seen", "seen", data={"sft": {"digest": digest}})
    make_evaluation(shop.folder / "evaluation-seen", data, seen)
    register(shop.registry, shop.folder / "store" / "seen", seen)
    assert shop.promote("seen", 2) == 2 and "trained on the data of --data" in capsys.readouterr().err
    fitted = {Mode.COT: Calibration(method="platt", answers=9, data=(digest,))}
    sure = make_checkpoint(shop.folder / "store" / "sure", "sure", calibration=fitted)
    make_evaluation(shop.folder / "evaluation-sure", data, sure)
    register(shop.registry, shop.folder / "store" / "sure", sure)
    assert shop.promote("sure", 3) == 2 and "confidence was fitted on the data of --data" in capsys.readouterr().err
    unproved = make_checkpoint(shop.folder / "store" / "unproved", "unproved", proved=False)
    register(shop.registry, shop.folder / "store" / "unproved", unproved)
    assert shop.run("promote", "4", "--force", "--reason", "x") == 2 and "no probes" in capsys.readouterr().err
    (shop.folder / "store" / "part" / "model.safetensors").write_text("changed")
    assert shop.promote("part", 1) == 2 and "bytes" in capsys.readouterr().err
    assert shop.production() is None
