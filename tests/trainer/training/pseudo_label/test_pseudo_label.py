"""The stage with a scripted engine: from questions without labels to a data directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from screening.answer import Mode
from screening.checkpoint.domain import Domain, DomainCalibration, FeatureStatistics
from screening.checkpoint.manifest import read_manifest, store_manifest
from tests.trainer.coloured import make_data
from tests.trainer.scripted_engine import make_checkpoint
from tests.trainer.training.pseudo_label.reordered_engine import ReorderedEngine, at_positions, truthful
from trainer.__main__ import main
from trainer.data.split.assign import SplitError, shares_of
from trainer.data.split.divide import divide
from trainer.data_directory import SAMPLES_NAME, read_samples
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.runs.run_directory import RunMismatch
from trainer.training.pseudo_label.errors import PseudoLabelError
from trainer.training.pseudo_label.label import Order, pseudo_label
from trainer.training.pseudo_label.report import PseudoLabels, page
from trainer.training.pseudo_label.select import Rules

pytestmark = pytest.mark.slow

LABELS = ("AC", "N", "B", "ABCD", "D", "BC", "A")
STRICT = Rules(min_agreement=1.0, min_confidence=0.8, max_overshare=10)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    data = make_data(tmp_path / "data", LABELS, labelled=False)
    return Order(make_checkpoint(tmp_path / "checkpoint"), data, tmp_path / "out", STRICT)


def labels_in(directory: Path) -> dict[str, str]:
    return {sample.id: sample.label for sample in read_samples(directory)}


def files_in(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def half_sure(number: int, order: str) -> tuple[str, float]:
    """Right in every order, but unsure about the samples of odd numbers."""
    return at_positions(LABELS[number], order), 0.6 if number % 2 else 0.95


@pytest.mark.parametrize("mode", Mode)
def test_a_model_that_sees_the_pictures_gets_its_labels_whatever_the_order(order: Order, mode: Mode) -> None:
    result = pseudo_label(replace(order, mode=mode, orders=24), open_engine=ReorderedEngine(truthful(LABELS)))
    assert labels_in(order.out) == {f"s{number}": label for number, label in enumerate(LABELS)}
    assert (result.selected, result.rejected) == (7, {})
    first = read_samples(order.out)[0]
    assert ("so I ultimately chose AC" in first.reasoning) == (mode is Mode.COT)
    assert first.pseudo_label is not None
    assert first.pseudo_label.model_dump() == {
        "checkpoint": read_manifest(order.checkpoint).digest,
        "mode": mode,
        "orders": 24,
        "agreement": 1.0,
        "confidence": 0.95,
    }


def test_a_model_that_prefers_a_position_gets_no_labels(order: Order) -> None:
    with pytest.raises(PseudoLabelError, match=r"none of 7 questions was selected \(agreement 7\)\. Lower --min-agree"):
        pseudo_label(order, open_engine=ReorderedEngine(lambda _number, _order: ("A", 0.99)))
    assert not (order.out / SAMPLES_NAME).exists()


def test_the_pictures_keep_their_bytes_and_their_order(order: Order) -> None:
    pseudo_label(order, open_engine=ReorderedEngine(truthful(LABELS)))
    for sample in read_samples(order.out):
        expected = [order.data / f"pictures/{sample.id}/{name}.png" for name in ("original", *"abcd")]
        assert [(order.out / file).read_bytes() for file in sample.files] == [path.read_bytes() for path in expected]


def test_a_killed_run_continues_and_ends_with_the_bytes_of_an_unbroken_one(order: Order, tmp_path: Path) -> None:
    unbroken = replace(order, out=tmp_path / "unbroken", batch=5)
    pseudo_label(unbroken, open_engine=ReorderedEngine(truthful(LABELS)))
    order = replace(order, batch=5)
    with pytest.raises(Unfinished, match="the engine died"):
        pseudo_label(order, open_engine=ReorderedEngine(truthful(LABELS), fail_after=13))
    assert not (order.out / SAMPLES_NAME).exists()
    with (order.out / "answers.jsonl").open("ab") as log:
        log.write(b'{"id": "s2", "ord')  # the line that a kill cut off
    second = ReorderedEngine(truthful(LABELS))
    pseudo_label(order, open_engine=second)
    assert len(second.asked) == 4 * 7 - 10
    assert files_in(order.out) == files_in(unbroken.out)


def test_other_rules_select_from_the_same_answers_without_an_engine(order: Order) -> None:
    pseudo_label(order, open_engine=ReorderedEngine(half_sure))
    assert list(labels_in(order.out)) == ["s0", "s2", "s4", "s6"]
    again = ReorderedEngine(half_sure)
    looser = replace(order, rules=replace(STRICT, min_confidence=0.5))
    assert pseudo_label(looser, open_engine=again).selected == 7
    assert pseudo_label(order, open_engine=again).selected == 4
    assert again.opened == 0
    assert sorted(folder.name for folder in (order.out / "pictures").iterdir()) == ["s0", "s2", "s4", "s6"]


def test_more_orders_ask_only_for_the_new_ones(order: Order) -> None:
    pseudo_label(replace(order, orders=2), open_engine=ReorderedEngine(truthful(LABELS)))
    second = ReorderedEngine(truthful(LABELS))
    pseudo_label(replace(order, orders=3), open_engine=second)
    assert second.asked == [(number, "CDAB") for number in range(7)]


def test_pictures_outside_the_training_domain_are_counted_and_keep_their_confidence(order: Order) -> None:
    statistics = FeatureStatistics.of(np.random.default_rng(0).normal(size=(20, 4)), 2)
    calibration = DomainCalibration(data=("sha256:0",), pictures=20, questions=4, target=0.5)
    domain = Domain(
        trained_on="examples", confidence_cap=0.3, statistics=statistics, threshold=10.0, calibration=calibration
    )
    capped = read_manifest(order.checkpoint).model_copy(update={"domain": domain})
    store_manifest(capped, order.checkpoint)
    result = pseudo_label(order, open_engine=ReorderedEngine(truthful(LABELS), domain_score=1.5))
    assert (result.flagged, result.selected) == (7, 7)
    assert {one.pseudo_label.confidence for one in read_samples(order.out) if one.pseudo_label} == {0.95}


def test_known_labels_measure_the_pseudo_labels_and_decide_nothing(order: Order, tmp_path: Path) -> None:
    wrong = ("C", "B", *LABELS[2:])  # s0: a part of AC; s1: not N
    data = make_data(tmp_path / "labelled", LABELS)
    result = pseudo_label(replace(order, data=data), open_engine=ReorderedEngine(truthful(wrong)))
    assert labels_in(order.out) == {f"s{number}": label for number, label in enumerate(wrong)}
    assert result.selected_precision is not None
    assert (result.selected_precision.correct.hits, result.selected_precision.exact.hits) == (6, 5)
    assert all(not picture.defects for sample in read_samples(order.out) for picture in sample.generated)
    assert "| selected" in page(result)


def test_the_labels_of_the_replay_decide_how_many_of_a_class_are_taken(order: Order, tmp_path: Path) -> None:
    replay = _renamed(make_data(tmp_path / "replay", ("N", "A", "B", "D")))
    labels = ("N", "N", "N", "N", "A", "B", "C")
    order = replace(order, replay=replay, rules=replace(STRICT, max_overshare=1.0))
    result = pseudo_label(order, open_engine=ReorderedEngine(truthful(labels)))
    assert [(one.reference, one.answered, one.selected) for one in result.classes[:2]] == [(1, 4, 2), (3, 3, 3)]
    assert list(labels_in(order.out)) == ["s0", "s1", "s4", "s5", "s6", "r0", "r1", "r2", "r3"]
    assert [sample.pseudo_label is not None for sample in read_samples(order.out)] == [True] * 5 + [False] * 4
    stored = PseudoLabels.model_validate_json((order.out / "pseudo-labels.json").read_bytes())
    assert stored == result


def test_the_frozen_test_set_is_refused_in_every_way(order: Order, tmp_path: Path) -> None:
    division = tmp_path / "split"
    divide([make_data(tmp_path / "all", LABELS)], division, shares_of([1, 1, 0, 0]), seed=1)
    tested = sorted(labels_in(division / "testing"))
    engine = ReorderedEngine(truthful(LABELS))
    with pytest.raises(PseudoLabelError, match=f"{len(tested)} samples show a product or a picture of the test set"):
        pseudo_label(replace(order, data=division / "testing"), open_engine=engine)
    with pytest.raises(PseudoLabelError, match=tested[0]):
        pseudo_label(replace(order, test_data=(division / "testing",)), open_engine=engine)
    with pytest.raises(PseudoLabelError, match=tested[0]):
        pseudo_label(replace(order, replay=division / "training"), open_engine=engine)
    with pytest.raises(PseudoLabelError, match=f"Remove them from {division / 'testing'}"):
        pseudo_label(replace(order, data=division / "training", replay=division / "testing"), open_engine=engine)
    assert engine.opened == 0
    assert not order.out.exists()


def test_a_split_refuses_pseudo_labels(order: Order, tmp_path: Path) -> None:
    pseudo_label(order, open_engine=ReorderedEngine(truthful(LABELS)))
    with pytest.raises(SplitError, match=r"a checkpoint gave sample 's0' its label"):
        divide([order.out], tmp_path / "split", shares_of([1, 1, 0, 0]), seed=1)


def test_a_directory_of_other_answers_is_refused(order: Order, tmp_path: Path) -> None:
    engine = ReorderedEngine(truthful(LABELS))
    pseudo_label(order, open_engine=engine)
    with pytest.raises(RunMismatch, match="other settings or data"):
        pseudo_label(replace(order, mode=Mode.DIRECT), open_engine=engine)
    other = make_checkpoint(tmp_path / "other", "other weights")
    with pytest.raises(RunMismatch, match="other settings or data"):
        pseudo_label(replace(order, checkpoint=other), open_engine=engine)
    assert engine.opened == 1


def test_one_id_in_both_directories_is_refused(order: Order, tmp_path: Path) -> None:
    replay = make_data(tmp_path / "replay", ("A",))
    with pytest.raises(PseudoLabelError, match=r"1 ids are in --data and in --replay, the first is 's0'"):
        pseudo_label(replace(order, replay=replay), open_engine=ReorderedEngine(truthful(LABELS)))


def test_the_data_directory_itself_is_not_overwritten(order: Order) -> None:
    with pytest.raises(PseudoLabelError, match="name another --out"):
        pseudo_label(replace(order, out=order.data), open_engine=ReorderedEngine(truthful(LABELS)))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--orders", "1", "is not between 2 and 24"),
        ("--orders", "25", "is not between 2 and 24"),
        ("--min-agreement", "1.5", "is not between 0 and 1"),
        ("--min-confidence", "high", "is not a number of at least 0"),
        ("--max-overshare", "0.5", "is not at least 1"),
    ],
)
def test_bad_settings_are_refused(
    order: Order, option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ["--checkpoint", str(order.checkpoint), "--data", str(order.data), "--out", str(order.out)]
    with pytest.raises(SystemExit, match="2"):
        main(["pseudo-label", *inputs, option, value])
    assert message in capsys.readouterr().err
    assert not order.out.exists()


def test_the_command_selects_again_and_prints_the_report(order: Order, capsys: pytest.CaptureFixture[str]) -> None:
    pseudo_label(order, open_engine=ReorderedEngine(half_sure))
    inputs = ["--checkpoint", str(order.checkpoint), "--data", str(order.data), "--out", str(order.out)]
    assert main(["pseudo-label", *inputs, "--min-confidence", "0.5", "--max-overshare", "10"]) == 0
    said = capsys.readouterr()
    assert (order.out / "pseudo-labels.md").read_text() in said.out
    assert "7 of 7 questions" in said.out
    assert "only 7 pseudo-labels" in said.err


def _renamed(directory: Path) -> Path:
    """Other ids and products, for data that is replayed."""
    path = directory / SAMPLES_NAME
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [{**line, "id": line["id"].replace("s", "r"), "product": f"r-{line['product']}"} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    return directory
