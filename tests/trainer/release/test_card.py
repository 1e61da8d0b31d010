"""The card: scores go into the manifest, the digest stays, and only evaluations of the checkpoint are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.answer import Answer, Mode
from screening.calibration import Calibration
from screening.checkpoint.directory import verify, write_manifest
from screening.checkpoint.manifest import CARD_NAME, Decoding, ImageContract, Manifest, read_manifest, store_manifest
from screening.prompt import COMPACT
from screening.runtime.utc_time import utc_now_text
from tests.screening.checkpoint.test_domain import make_domain
from tests.trainer.coloured import sample_of
from trainer.__main__ import main
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, EvaluatedData, Evaluation, Tokens, versions
from trainer.judged import Judged
from trainer.metrics import evaluate_scores


def evaluation(directory: Path, manifest: Manifest, mode: Mode) -> Path:
    judged = [
        Judged(sample_of("AB", "AB"), Answer(frozenset("A"), "…"), "A"),
        Judged(sample_of("C", "C"), Answer(frozenset("D"), "…"), "D"),
        Judged(sample_of("N", "N"), Answer(frozenset(), "…"), "N"),
        Judged(sample_of("ABC", "ABC"), Answer(frozenset("BC"), "…"), "B"),
    ]
    result = Evaluation(
        created=utc_now_text(),
        checkpoint=EvaluatedCheckpoint(name="small", version="1", digest=manifest.digest),
        data=EvaluatedData(digest="sha256:0", samples=4, evaluated=4),
        mode=mode,
        scores=evaluate_scores(judged),
        reliability=None,
        tokens=Tokens(prompt=1, completion=1, cut=0),
        versions=versions(),
    )
    directory.mkdir()
    (directory / "scores.json").write_text(result.model_dump_json())
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"weights")
    contract = ImageContract(size=64, tokens_per_picture=4)
    write_manifest(directory, name="small", version="1", prompt=COMPACT, image=contract, decoding=Decoding())
    return directory


def test_scores_reach_manifest_and_card_and_the_digest_stays(checkpoint: Path, tmp_path: Path) -> None:
    before = read_manifest(checkpoint)
    result = evaluation(tmp_path / "cot", before, Mode.COT)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(result)]) == 0
    after = verify(checkpoint)
    assert after.digest == before.digest
    assert after.scores["cot"]["overall"]["correct"]["percent"] == pytest.approx(75)
    text = (checkpoint / CARD_NAME).read_text()
    assert after.digest in text
    assert "75" in text
    assert "They are not a frozen test set" in text


def test_the_card_says_that_a_frozen_test_set_shares_no_product(checkpoint: Path, tmp_path: Path) -> None:
    result = evaluation(tmp_path / "cot", read_manifest(checkpoint), Mode.COT)
    text = (result / "scores.json").read_text().replace('"frozen":false', '"frozen":true')
    (result / "scores.json").write_text(text)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(result)]) == 0
    assert "Measured on the frozen test set of a division" in (checkpoint / CARD_NAME).read_text()


def test_scores_of_another_checkpoint_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = read_manifest(checkpoint).model_copy(update={"decoding": Decoding(mode="grammar")})
    result = evaluation(tmp_path / "cot", other, Mode.COT)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(result)]) == 2
    assert other.digest in capsys.readouterr().err
    assert not (checkpoint / CARD_NAME).exists()


def test_a_score_on_the_data_that_confidence_was_fitted_on_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = {Mode.COT: Calibration(method="platt", answers=4, data=("sha256:0",))}
    calibrated = read_manifest(checkpoint).model_copy(update={"calibration": fitted})
    store_manifest(calibrated, checkpoint)
    result = evaluation(tmp_path / "cot", calibrated, Mode.COT)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(result)]) == 2
    assert "fitted on" in capsys.readouterr().err


def test_a_score_on_the_data_that_the_domain_was_fitted_on_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    domain = make_domain()
    assert domain.calibration.data == ("sha256:0",)
    described = read_manifest(checkpoint).model_copy(update={"domain": domain})
    store_manifest(described, checkpoint)
    result = evaluation(tmp_path / "cot", described, Mode.COT)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(result)]) == 2
    assert "its domain was fitted on" in capsys.readouterr().err


def test_a_score_on_the_data_by_which_the_weights_were_chosen_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"sft-answer-driven": {"digest": "sha256:1", "validation": {"digest": "sha256:0", "step": 20}}}
    chosen = read_manifest(checkpoint).model_copy(update={"data": data})
    store_manifest(chosen, checkpoint)
    result = evaluation(tmp_path / "cot", chosen, Mode.COT)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(result)]) == 2
    assert "by which the checkpoint's weights were chosen" in capsys.readouterr().err


def test_the_card_names_licences_that_restrict_the_training_data(checkpoint: Path, tmp_path: Path) -> None:
    manifest = read_manifest(checkpoint)
    scores = evaluation(tmp_path / "scores", manifest, Mode.COT)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(scores)]) == 0
    assert "licence" not in (checkpoint / CARD_NAME).read_text()
    data = {"sft-weak": {"digest": "sha256:1", "licences": ["FLUX.1-dev-non-commercial"]}}
    store_manifest(manifest.model_copy(update={"data": data}), checkpoint)
    assert main(["card", "--checkpoint", str(checkpoint), "--evaluations", str(scores)]) == 0
    assert "pictures under the licence FLUX.1-dev-non-commercial" in (checkpoint / CARD_NAME).read_text()
