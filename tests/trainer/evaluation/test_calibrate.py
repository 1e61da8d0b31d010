"""Calibration: the choice of the curve, the evaluations that may be used, and the changes to the checkpoint."""

from __future__ import annotations

import errno
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from screening.answer import Answer, Mode
from screening.calibration import LEAST_SLOPE, UNCALIBRATED, Calibration, Curve, Shifts, logit, sigmoid
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import CARD_NAME, Manifest, read_manifest, store_manifest
from screening.confidence import choose as choose_option
from screening.runtime.digests import file_sha256
from screening.task import OPTIONS
from tests.trainer.coloured import sample_of
from tests.trainer.scripted_engine import make_checkpoint
from trainer.__main__ import main
from trainer.evaluation.calibrate import command
from trainer.evaluation.calibrate.evidence import Answered, CalibrationError, ReadAnswer
from trainer.evaluation.calibrate.fit import (
    FOLDS,
    METHODS,
    choose,
    isotonic,
    likeliest_line,
    platt,
    position_shifts,
)
from trainer.evaluation.calibrate.fit import calibrate as fit
from trainer.evaluation.evaluate.identity import EndpointModel, Identity
from trainer.evaluation.evaluate.predictions import Prediction, open_predictions
from trainer.evaluation.evaluate.report import write_result
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, EvaluatedEndpoint, conclude, read_evaluation
from trainer.judged import Judged

pytestmark = pytest.mark.slow

Truth = Callable[[float], float]
"""Maps the probability of a choice to the probability that it is right."""


def answers(count: int, picture: Truth, none: Truth | None = None, seed: int = 0) -> list[Answered]:
    """Answers of which every third is `N`, with mostly high probabilities, as of a trained model."""
    draw, made = random.Random(seed), []
    for number in range(count):
        probability = 1 / (1 + math.exp(-draw.gauss(2, 2)))
        is_none = number % 3 == 0
        truth = none if none and is_none else picture
        made.append(Answered(is_none, probability, draw.random() < truth(probability)))
    return made


def line(slope: float, intercept: float) -> Truth:
    return Curve(slope=slope, intercept=intercept).confidence


def test_platt_scaling_finds_the_line_that_made_the_answers() -> None:
    found = platt(answers(8000, line(0.5, -0.4)))
    assert (found.slope, found.intercept) == (pytest.approx(0.5, abs=0.05), pytest.approx(-0.4, abs=0.1))


def test_a_model_that_is_surer_where_it_is_wrong_gets_no_order_from_it() -> None:
    found = platt(answers(1000, lambda probability: 1 - probability))
    assert found.slope == LEAST_SLOPE
    assert found.confidence(0.1) == pytest.approx(found.confidence(0.9), abs=0.02)


def test_answers_that_a_line_separates_do_not_make_it_infinitely_steep() -> None:
    found = platt([Answered(False, p / 100, p > 50) for p in range(1, 100)])
    assert found.slope < 100


@hypothesis.given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.01, 5000)), min_size=1, max_size=6)
)
@hypothesis.example([(0.9, 0.0233, 29.0), (1.0, 0.9991, 1104.0), (0.999996, 0.0233, 12.0)])
def test_the_likeliest_line_is_found_wherever_the_answers_lie(groups: list[tuple[float, float, float]]) -> None:
    """The mean of the targets, and their mean weighted by the log-odds, are those of the line. The example's line is
    missed by whole steps of Newton's method."""
    probabilities, target, weights = map(np.array, zip(*groups, strict=True))
    x = np.array([logit(probability) for probability in probabilities])
    slope, intercept = likeliest_line(x, target, weights)
    off = weights * (target - np.exp(-np.logaddexp(0.0, -(slope * x + intercept)))) / weights.sum()
    assert abs(off.sum()) < 1e-4 and abs(off @ x) < 1e-4


def test_isotonic_regression_equals_a_calculation_by_hand() -> None:
    # Eight blocks of two. The fourth is below the third and is pooled with it, as are equal ones.
    right = [False, False, False, True, True, True, False, True, *[True] * 8]
    curve = isotonic([Answered(False, (place + 1) / 20, is_right) for place, is_right in enumerate(right)])
    levels = [level for _, level in curve.knots]
    assert levels == pytest.approx([0, 0.5 / 3, 1.5 / 3, 3.5 / 5, 8.5 / 9, 1])
    first = (logit(1 / 20) + logit(2 / 20)) / 2
    assert curve.knots[1][0] == pytest.approx(first)


@pytest.mark.parametrize(
    ("method", "picture", "none"),
    [
        ("none", line(1, 0), None),
        ("platt", line(0.5, -1), None),
        ("platt apart", line(0.5, -1), line(1, 2)),
        ("isotonic", lambda probability: 0.35 if probability < 0.9 else 0.95, None),
    ],
)
def test_the_method_that_fits_unseen_answers_best_is_taken(method: str, picture: Truth, none: Truth | None) -> None:
    choice = choose(answers(3000, picture, none))
    assert choice.calibration.method == method
    assert choice.losses[method] == min(choice.losses.values())
    assert choice.calibration.answers == 3000


def test_too_few_wrong_answers_give_no_curve() -> None:
    with pytest.raises(CalibrationError, match="81 right and 19 wrong"):
        choose([Answered(False, 0.9, number >= 19) for number in range(100)])


def about(given: Sequence[Answered], each: int) -> list[Answered]:
    """The same answers; `each` neighbours are about one product."""
    return [replace(answer, product=f"p{number // each}") for number, answer in enumerate(given)]


def test_the_answers_about_a_product_are_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    given = about(answers(400, line(0.5, -1)), 8)
    fitted: list[Sequence[Answered]] = []

    def spy(some: Sequence[Answered]) -> Calibration:
        fitted.append(some)
        return UNCALIBRATED

    monkeypatch.setitem(METHODS, "none", spy)
    choose(given)
    folds = [{answer.product for answer in some} for some in fitted[:FOLDS]]
    everything = {f"p{number}" for number in range(50)}
    assert [len(some) for some in fitted[:FOLDS]] == [360] * FOLDS, "each fold has 5 of the 50 products"
    assert all(len(seen) == 45 for seen in folds)
    left_out = [product for seen in folds for product in everything - seen]
    assert sorted(left_out) == sorted(everything), "each product is left out once"


def test_answers_about_different_products_are_calibrated_as_before() -> None:
    given = answers(400, line(0.5, -1))
    assert choose(about(given, 1)) == choose(given)


def test_few_products_give_no_curve() -> None:
    given = [Answered(False, 0.9, number % 3 > 0, product=f"p{number % 9}") for number in range(180)]
    with pytest.raises(CalibrationError, match="180 answers about 9 products are too few"):
        choose(given)


def test_one_product_may_have_all_answers_of_a_kind() -> None:
    given = [replace(a, product="same" if a.none else "") for a in answers(600, line(0.5, -1))]
    assert choose(given).losses.keys() == METHODS.keys()


def shunning(count: int, seed: int = 0) -> list[ReadAnswer]:
    """Answers of a model that underrates pictures in position A and is right about all others."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        true = {option: 1 / (1 + math.exp(-draw.gauss(0, 3))) for option in OPTIONS}
        label = frozenset(option for option in OPTIONS if draw.random() < true[option])
        seen = {option: sigmoid(logit(u) - 1.2 * (option == "A")) for option, u in true.items()}
        made.append(ReadAnswer(frozenset(option for option in OPTIONS if seen[option] > 0.5), seen, 0.5, label))
    return made


def chosen(read: Sequence[ReadAnswer], calibration: Calibration) -> dict[str, int]:
    picked = [choose_option(answer.options, answer.usable, calibration)[0] for answer in read if answer.options]
    return {option: picked.count(option) for option in OPTIONS}


def test_a_position_that_is_shunned_is_chosen_as_often_as_the_labels_have_it() -> None:
    seen, fitted = shunning(4000, seed=1), fit(shunning(4000)).calibration
    assert fitted.shifts.A > 0.5 > max(fitted.shifts.B, fitted.shifts.C, fitted.shifts.D)
    assert sum(fitted.shifts.model_dump().values()) == pytest.approx(0)
    before, after = chosen(seen, UNCALIBRATED), chosen(seen, fitted)
    labels = {option: sum(1 / len(a.label) for a in seen if option in a.label) for option in OPTIONS}
    assert before["A"] < 0.75 * labels["A"]
    share = sum(after.values()) / sum(labels.values())  # some answers name no option
    assert all(after[option] == pytest.approx(share * labels[option], rel=0.1) for option in OPTIONS)


def test_few_answers_shift_little() -> None:
    both = frozenset("AB")
    few = [ReadAnswer(both, {"A": 0.8, "B": 0.7}, 0.5, frozenset("B"))] * 2
    assert abs(position_shifts(few).B) < 0.5 < abs(position_shifts(few * 50).B)
    assert position_shifts([]) == Shifts()
    assert position_shifts([ReadAnswer(frozenset(), {}, 0.5, frozenset())]) == Shifts()


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no `confidence.png`, which nothing here reads; `test_evaluate.py` has it."""
    monkeypatch.setattr("trainer.evaluation.evaluate.report.plot", lambda *_: None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


def evaluation(directory: Path, manifest: Manifest, given: Sequence[Answered], **changes: Any) -> Path:
    """Write an evaluation: each answer names A or nothing; `given` decides which are right."""
    mode, data = changes.get("mode", Mode.COT), changes.get("data", "sha256:validation")
    samples = [
        sample_of(str(number), "N" if a.none is a.right else "A").model_copy(
            update={"weight": a.weight, "product": a.product or str(number)}
        )
        for number, a in enumerate(given)
    ]
    identity = Identity(checkpoint=manifest.digest, data=data, mode=mode)
    model = EvaluatedCheckpoint(name="scripted", version="1", digest=manifest.digest)
    with open_predictions(directory, identity) as predictions:
        for sample, a in zip(samples, given, strict=True):
            read = Judged(sample, Answer(frozenset() if a.none else frozenset("A")), "N" if a.none else "A")
            known = {"confidence": a.probability, "probability": a.probability}
            known["usable"] = {} if a.none else {"A": a.probability}
            predictions.append(
                [Prediction.of(read, text="", finish="stop", prompt_tokens=1, completion_tokens=1, **known)]
            )
        frozen = changes.get("frozen", False)
        write_result(directory, conclude(predictions, samples, samples, identity, model, 0.95, frozen=frozen))
    return directory


def calibrate(checkpoint: Path, *evaluations: Path) -> int:
    return main(["calibrate", "--checkpoint", str(checkpoint), "--evaluations", *map(str, evaluations)])


def test_the_curves_of_both_modes_reach_the_manifest_and_nothing_else_changes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_manifest(checkpoint)
    cot = evaluation(tmp_path / "cot", before, answers(400, line(0.5, -1)))
    direct = evaluation(tmp_path / "direct", before, answers(400, line(2, 1), seed=1), mode=Mode.DIRECT)
    assert calibrate(checkpoint, cot, direct) == 0
    after = verify(checkpoint)
    assert set(after.calibration) == {Mode.COT, Mode.DIRECT}
    assert after.calibration_of(Mode.COT).option.slope < 1 < after.calibration_of(Mode.DIRECT).option.slope
    assert after.calibration_of(Mode.COT).data == ("sha256:validation",)
    assert after.model_copy(update={"calibration": {}}) == before
    assert after.digest != before.digest
    printed = capsys.readouterr().out
    assert before.digest in printed and after.digest in printed
    assert "expected calibration error" in printed


def test_the_report_says_that_products_have_several_answers(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(checkpoint)
    together = evaluation(tmp_path / "cot", manifest, about(answers(400, line(0.5, -1)), 8))
    apart = evaluation(tmp_path / "direct", manifest, answers(400, line(0.5, -1)), mode=Mode.DIRECT)
    assert calibrate(checkpoint, together, apart) == 0
    printed = capsys.readouterr().out
    assert "400 answers about 50 products on sha256:validation" in printed and "a fit without its product" in printed
    assert "400 answers on sha256:validation" in printed and "a fit without it (" in printed


def test_scores_and_card_of_the_earlier_digest_go(checkpoint: Path, tmp_path: Path) -> None:
    scored = {"cot": {"overall": {"correct": {"percent": 85.0}}, "data": {"digest": "sha256:test"}}}
    store_manifest(read_manifest(checkpoint).model_copy(update={"scores": scored}), checkpoint)
    (checkpoint / CARD_NAME).write_text("85 % right")
    result = evaluation(tmp_path / "cot", read_manifest(checkpoint), answers(300, line(0.5, -1)))
    assert calibrate(checkpoint, result) == 0
    after = verify(checkpoint)
    assert after.scores == {"cot": {"data": {"digest": "sha256:test"}}}
    assert after.scored_on == {"sha256:test"}, "which must not calibrate it"
    assert not (checkpoint / CARD_NAME).exists()


def test_a_calibration_that_stops_before_the_manifest_is_written_leaves_no_outdated_card(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = {"cot": {"overall": {"correct": {"percent": 85.0}}, "data": {"digest": "sha256:test"}}}
    store_manifest(read_manifest(checkpoint).model_copy(update={"scores": scored}), checkpoint)
    (checkpoint / CARD_NAME).write_text("85 % right")
    before = read_manifest(checkpoint)
    result = evaluation(tmp_path / "cot", before, answers(300, line(0.5, -1)))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("screening.checkpoint.manifest.write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            command.calibrate(checkpoint, [result])
    assert read_manifest(checkpoint) == before and not (checkpoint / CARD_NAME).exists()
    assert "were removed" in command.calibrate(checkpoint, [result])


def test_the_data_by_which_a_training_chose_its_weights_may_be_fitted_on(checkpoint: Path, tmp_path: Path) -> None:
    trained = {"sft": {"digest": "sha256:training", "validation": {"digest": "sha256:validation"}}}
    store_manifest(read_manifest(checkpoint).model_copy(update={"data": trained}), checkpoint)
    assert calibrate(checkpoint, evaluation(tmp_path / "cot", read_manifest(checkpoint), answers(100, line(1, 0)))) == 0
    assert read_manifest(checkpoint).calibrated_on == {"sha256:validation"}


def test_the_same_command_again_writes_the_same_manifest(checkpoint: Path, tmp_path: Path) -> None:
    result = evaluation(tmp_path / "cot", read_manifest(checkpoint), answers(300, line(0.5, -1)))
    assert calibrate(checkpoint, result) == 0
    once = file_sha256(checkpoint / "screening.json")
    assert calibrate(checkpoint, result) == 0
    assert file_sha256(checkpoint / "screening.json") == once


def test_evaluations_of_a_calibrated_checkpoint_give_the_same_curves(checkpoint: Path, tmp_path: Path) -> None:
    given = answers(300, line(0.5, -1))
    assert calibrate(checkpoint, evaluation(tmp_path / "first", read_manifest(checkpoint), given)) == 0
    calibrated = read_manifest(checkpoint)
    assert calibrate(checkpoint, evaluation(tmp_path / "again", calibrated, given)) == 0
    assert read_manifest(checkpoint) == calibrated


def test_evaluations_of_one_mode_on_several_data_sets_are_pooled(checkpoint: Path, tmp_path: Path) -> None:
    manifest = read_manifest(checkpoint)
    parts = [
        evaluation(tmp_path / name, manifest, answers(200, line(0.5, -1), seed=seed), data=f"sha256:{name}")
        for seed, name in enumerate("ab")
    ]
    assert calibrate(checkpoint, *parts) == 0
    found = read_manifest(checkpoint).calibration_of(Mode.COT)
    assert (found.answers, found.data) == (400, ("sha256:a", "sha256:b"))


def queued(population: Sequence[Answered], seed: int = 0) -> list[Answered]:
    """The answers that a review queue draws: doubtful and contested ones far more often than others."""
    draw, made = random.Random(seed), []
    for answer in population:
        contested = not answer.right and draw.random() < 0.7
        inclusion = 0.6 if contested else 0.3 if answer.probability < 0.7 else 0.04
        if draw.random() < inclusion:
            made.append(replace(answer, weight=1 / inclusion))
    return made


def test_weights_recover_the_calibration_that_a_biased_queue_hides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    population = answers(20_000, line(0.6, 0.8))
    truth = platt(population)
    queue = queued(population)
    assert len(queue) < 6000
    for name, given in (("weighted", queue), ("plain", [replace(answer, weight=1.0) for answer in queue])):
        checkpoint = make_checkpoint(tmp_path / name)
        assert calibrate(checkpoint, evaluation(tmp_path / f"{name}-e", read_manifest(checkpoint), given)) == 0
        curve = read_manifest(checkpoint).calibration_of(Mode.COT).option
        apart = [abs(curve.confidence(p) - truth.confidence(p)) for p in (0.3, 0.5, 0.7, 0.9, 0.97)]
        assert max(apart) < 0.06 if name == "weighted" else max(apart) > 0.2, (name, apart)
    first, second = capsys.readouterr().out.split("# cot")[1:]
    assert "count by their inclusion weights" in first and "inclusion weights" not in second


def test_weights_that_say_next_to_nothing_are_refused() -> None:
    given = [Answered(False, 0.9, number % 2 == 0, 1 / 90) for number in range(90)]
    with pytest.raises(CalibrationError, match="as much as 1 equal ones"):
        choose(given)


@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_equal_weights_change_nothing(weight: float, checkpoint: Path, tmp_path: Path) -> None:
    given = answers(300, line(0.5, -1))
    other = make_checkpoint(tmp_path / "other")
    assert calibrate(checkpoint, evaluation(tmp_path / "plain", read_manifest(checkpoint), given)) == 0
    same = [replace(answer, weight=weight) for answer in given]
    assert calibrate(other, evaluation(tmp_path / "weighted", read_manifest(other), same)) == 0
    assert read_manifest(other).calibration == read_manifest(checkpoint).calibration


@pytest.mark.parametrize(
    ("what", "changes", "said"),
    [
        ("frozen", {"frozen": True}, "frozen test set"),
        ("scores", {"data": "sha256:test"}, "published scores"),
        ("training", {"data": "sha256:training"}, "trained on"),
    ],
)
def test_data_that_must_not_be_fitted_on_is_refused(
    what: str, changes: dict[str, Any], said: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"scores": {"cot": {"data": {"digest": "sha256:test"}}}, "data": {"sft": {"digest": "sha256:training"}}}
    before = read_manifest(checkpoint).model_copy(update=known)
    store_manifest(before, checkpoint)
    assert calibrate(checkpoint, evaluation(tmp_path / what, before, answers(100, line(0.5, -1)), **changes)) == 2
    assert said in capsys.readouterr().err
    assert read_manifest(checkpoint) == before


def test_evaluations_of_another_model_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = read_manifest(make_checkpoint(tmp_path / "other", weights="other"))
    assert calibrate(checkpoint, evaluation(tmp_path / "of-other", other, answers(100, line(1, 0)))) == 2
    assert other.digest in capsys.readouterr().err
    result = evaluation(tmp_path / "same", read_manifest(checkpoint), answers(100, line(1, 0)))
    assert calibrate(checkpoint, result, result) == 2
    assert "are on the same data" in capsys.readouterr().err
    assert calibrate(checkpoint, tmp_path / "nothing") == 2
    assert "trainer evaluate" in capsys.readouterr().err


@pytest.mark.parametrize("unknown", ["probability", "usable"])
def test_answers_without_known_probabilities_are_not_fitted(
    unknown: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = evaluation(tmp_path / "e", read_manifest(checkpoint), answers(100, line(1, 0)))
    log = directory / "predictions.jsonl"
    lines = [json.loads(text) for text in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({k: v for k, v in one.items() if k != unknown}) + "\n" for one in lines))
    assert calibrate(checkpoint, directory) == 2
    assert "the probability of an option is missing" in capsys.readouterr().err


def test_a_probability_that_is_not_a_number_does_not_spoil_the_log() -> None:
    read = Judged(sample_of("1", "A"), Answer(frozenset("A")), "A")
    counts = {"prompt_tokens": 1, "completion_tokens": 1}
    usable = {"A": 0.5, "B": math.nan}
    line = Prediction.of(read, text="", finish="stop", confidence=0.5, probability=0.5, usable=usable, **counts)
    assert Prediction.model_validate_json(line.model_dump_json()).usable == {"A": 0.5}


def test_an_endpoints_evaluation_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = evaluation(tmp_path / "e", read_manifest(checkpoint), answers(100, line(1, 0)))
    asked = EndpointModel(model="m", prompt="p", instruction="i", picture_size=8, reply_tokens=9, extra_body={})
    facts = {"url": "http://x", "answered_as": {}, "refused": 0, "cost": None}
    endpoint = EvaluatedEndpoint(asked=asked, digest=asked.digest, **facts)
    result = read_evaluation(directory).model_copy(update={"checkpoint": None, "endpoint": endpoint})
    (directory / "scores.json").write_text(result.model_dump_json())
    assert calibrate(checkpoint, directory) == 2
    assert "endpoint" in capsys.readouterr().err
