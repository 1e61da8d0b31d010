"""Describing a checkpoint's domain, with scripted features of pictures instead of vLLM's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from screening.checkpoint.manifest import CARD_NAME, Manifest, read_manifest, store_manifest
from screening.checkpoint.probes import probe_pictures
from screening.checkpoint.seal import is_sealed
from tests.trainer.published import make_checkpoint as make_published
from tests.trainer.published import make_data
from tests.trainer.scripted_engine import SIZE, SQUARE, make_checkpoint
from trainer.__main__ import main
from trainer.evaluation.domain import command
from trainer.evaluation.domain.errors import DomainFitError
from trainer.evaluation.domain.fit import LEAST_PRODUCTS, LEAST_QUESTIONS, TARGET, fit

pytestmark = pytest.mark.slow

WIDTH = 40


def questions(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(6, WIDTH))
    return rng.normal(size=(count, 5, 6)) @ directions + 0.2 * rng.normal(size=(count, 5, WIDTH))


def names(count: int, per_product: int = 1) -> list[str]:
    return [f"p{number // per_product}" for number in range(count)]


def of_products(seed: int, products: int, per_product: int) -> np.ndarray:
    """Questions whose pictures look like their product."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(products, 1, 1, WIDTH))
    return (own + 0.3 * rng.normal(size=(products, per_product, 5, WIDTH))).reshape(-1, 5, WIDTH)


def flagged(found: Any, features: np.ndarray) -> float:
    distances = found.statistics.distances(features.reshape(-1, WIDTH)).reshape(len(features), 5)
    return float((distances.max(1) >= found.threshold).mean())


def test_new_questions_of_the_domain_are_flagged_as_rarely_as_wanted() -> None:
    shares = [flagged(fit(questions(seed, 1000), names(1000)), questions(100 + seed, 2000)) for seed in range(8)]
    assert np.mean(shares) == pytest.approx(TARGET, abs=0.004) and max(shares) <= 0.02


def test_new_products_are_flagged_as_rarely_although_each_product_has_many_questions() -> None:
    found = [fit(of_products(seed, 100, 10), names(1000, 10)) for seed in range(8)]
    shares = [flagged(one, of_products(50 + seed, 400, 2)) for seed, one in enumerate(found)]
    assert np.mean(shares) <= 0.02, "0.6 if both halves have the same products"
    assert all(one.questions == 500 and one.pictures == 2500 for one in found)


def test_one_strange_picture_among_five_is_enough() -> None:
    features = questions(50, 200)
    features[:, 3] += 5 * np.random.default_rng(1).normal(size=WIDTH)
    assert flagged(fit(questions(1, 1000), names(1000)), features) == 1


def test_a_higher_target_flags_more() -> None:
    features = questions(1, 2000)
    assert fit(features, names(2000), 0.05).threshold < fit(features, names(2000), 0.005).threshold


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_describe_nothing(value: float) -> None:
    features = questions(1, LEAST_QUESTIONS)
    features[7, 2, 3] = value
    with pytest.raises(DomainFitError, match="not finite"):
        fit(features, names(LEAST_QUESTIONS))


def test_too_few_questions_or_products_describe_nothing() -> None:
    with pytest.raises(DomainFitError, match=f"399 questions are too few to .* Give at least {LEAST_QUESTIONS}"):
        fit(questions(1, 399), names(399))
    with pytest.raises(DomainFitError, match=f"99 products are too few to .* Give at least {LEAST_PRODUCTS}"):
        fit(questions(1, 990), names(990, 10))


def scripted_features(picture: Image.Image) -> np.ndarray:
    """Features of a picture: its brightness in a few places."""
    return np.asarray(picture.convert("L").resize((6, 6), Image.Resampling.BOX), dtype=np.float64).ravel()


class Opened:
    """Opens scripted extractors. The float32 one gives slightly different features."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off

    @contextmanager
    def __call__(self, _checkpoint: Path, _manifest: Any, **arguments: Any) -> Iterator[Any]:
        factor = 1 + self.off if arguments.get("dtype") == "float32" else 1.0

        def extract(shown: Sequence[Sequence[Image.Image]]) -> np.ndarray:
            return np.array([[factor * scripted_features(picture) for picture in pictures] for pictures in shown])

        yield extract


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions whose pictures are random patches of grey."""
    directory = make_data(tmp_path_factory.mktemp("data") / "patches", LEAST_QUESTIONS)
    rng = np.random.default_rng(3)
    for file in directory.glob("pictures/*/*.png"):
        patches = Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8))
        patches.resize((SIZE, SIZE), Image.Resampling.NEAREST).save(file)
    return directory


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, Manifest, str]:
    """A checkpoint with a domain, its earlier manifest, and the report."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("described") / "c")
    before = read_manifest(checkpoint)
    return checkpoint, before, command.describe(checkpoint, data, "small drawings", open_extractor=Opened(0.001))


def test_a_checkpoint_with_tiles_gets_no_domain(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "c")
    image = SQUARE.model_copy(update={"max_patches": 4})
    store_manifest(read_manifest(checkpoint).model_copy(update={"image": image}), checkpoint)
    with pytest.raises(DomainFitError, match=r"into up to 4 tiles.* Serve it without a domain"):
        command.describe(checkpoint, tmp_path / "data", "small drawings")


def test_the_manifest_gets_a_domain_that_knows_its_probes(described: tuple[Path, Manifest, str]) -> None:
    checkpoint, before, report = described
    after = read_manifest(checkpoint)
    domain = after.domain
    assert domain is not None and domain.trained_on == "small drawings" and after.digest != before.digest
    assert before.digest in report and after.digest in report
    assert "removed" not in report and "publish" not in report, "it had no scores and was not published"
    assert 0.2 < domain.confidence_cap < 0.5, "the share of right blind guesses on the data"
    (probe,) = domain.probes
    found = domain.scores([scripted_features(picture) for picture in probe_pictures(probe.seed, SIZE)])
    assert domain.deviation(probe, found) == 0 and 0.02 <= domain.tolerance <= 0.25
    assert domain.calibration.questions == LEAST_QUESTIONS // 2


def test_scores_and_card_of_the_earlier_digest_go_and_a_sealed_checkpoint_must_be_published_again(
    data: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "c"
    scored = {"cot": {"overall": {"correct": {"percent": 85.0}}, "data": {"digest": "sha256:test"}}}
    published = make_published(checkpoint, "weights")
    store_manifest(published.model_copy(update={"scores": scored}), checkpoint)
    (checkpoint / CARD_NAME).write_text("85 % right")
    report = command.describe(checkpoint, data, "small drawings", open_extractor=Opened())
    assert read_manifest(checkpoint).scores == {"cot": {"data": {"digest": "sha256:test"}}}
    assert not (checkpoint / CARD_NAME).exists() and "were removed" in report
    assert not is_sealed(read_manifest(checkpoint)) and "publish --again" in report


def test_the_same_command_again_gives_the_same_manifest(data: Path, described: tuple[Path, Manifest, str]) -> None:
    checkpoint, _, _ = described
    first = (checkpoint / "screening.json").read_bytes()
    command.describe(checkpoint, data, "small drawings", open_extractor=Opened(0.001))
    assert (checkpoint / "screening.json").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--trained-on", " "], "--trained-on"),
        (["--trained-on", "x" * 201], "--trained-on"),
        (["--trained-on", "x", "--target", "0"], "--target"),
        (["--trained-on", "x", "--target", "0.5"], "--target"),
        (["--trained-on", "x", "--target", "nan"], "--target"),
    ],
)
def test_impossible_settings_are_refused_before_an_engine_starts(tmp_path, data, capsys, arguments, reason) -> None:
    checkpoint = make_checkpoint(tmp_path / "c")
    assert main(["domain", "--checkpoint", str(checkpoint), "--data", str(data), *arguments]) == 2
    assert reason in capsys.readouterr().err
