"""The out-of-domain score: fitted on features, kept in a manifest, refused where its numbers cannot be right."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from screening.checkpoint.directory import write_manifest
from screening.checkpoint.domain import (
    Domain,
    DomainCalibration,
    DomainError,
    DomainProbe,
    FeatureStatistics,
    strange_pictures,
)
from screening.checkpoint.manifest import Decoding, ImageContract, Manifest, read_manifest
from screening.errors import CheckpointError
from screening.prompt import COMPACT

WIDTH, RANK = 24, 4


def features(seed: int, count: int) -> np.ndarray:
    """Pictures of a domain: they vary in four directions and hardly in others, around a mean that is not 0."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(RANK, WIDTH))
    return 3 + rng.normal(size=(count, RANK)) @ directions + 0.1 * rng.normal(size=(count, WIDTH))


def make_domain(**changed: Any) -> Domain:
    statistics = FeatureStatistics.of(features(1, 2000), RANK)
    fields: dict[str, Any] = {
        "trained_on": "rendered product pictures",
        "confidence_cap": 0.35,
        "statistics": statistics,
        "threshold": float(np.quantile(statistics.distances(features(2, 1000)), 0.995)),
        "calibration": DomainCalibration(data=("sha256:0",), pictures=2000, questions=200, target=0.005),
        "probes": (DomainProbe(seed=0, scores=(1.0, 2.0, 3.0, 4.0, 5.0)),),
    }
    return Domain(**fields | changed)


def test_pictures_of_the_domain_score_below_one_and_others_above() -> None:
    domain = make_domain()
    inside = np.array(domain.scores(list(features(3, 1000))))
    assert (inside >= 1).mean() < 0.02
    far_along = features(4, 50) + 30 * np.random.default_rng(0).normal(size=(RANK, WIDTH))[0]
    beside = features(5, 50) + np.random.default_rng(9).normal(size=WIDTH)
    assert min(domain.scores(list(far_along))) > 1 and min(domain.scores(list(beside))) > 1


def test_scores_follow_the_formula_in_the_module() -> None:
    domain, one = make_domain(), features(6, 1) + 0.3
    center, scale, directions = domain.statistics._arrays
    z = (one[0] - center) / scale
    along = directions @ z
    inside = np.mean(along**2 / domain.statistics.variances)
    beyond = (z @ z - along @ along) / (WIDTH - RANK) / domain.statistics.rest
    assert domain.scores(list(one))[0] == pytest.approx(max(inside, beyond) / domain.threshold)


def test_a_feature_that_never_varied_does_not_make_rounding_strange() -> None:
    constant = features(1, 500)
    constant[:, 0] = 2.0
    statistics = FeatureStatistics.of(constant, RANK)
    rounded = constant[:1].copy()
    rounded[0, 0] += 1e-5
    assert statistics.distances(rounded)[0] == pytest.approx(statistics.distances(constant[:1])[0], rel=0.01)


def test_a_domain_survives_its_manifest(tmp_path) -> None:
    domain = make_domain()
    written = write_manifest(
        tmp_path,
        name="t",
        version="1",
        prompt=COMPACT,
        image=ImageContract(size=16, tokens_per_picture=4),
        decoding=Decoding(),
        domain=domain,
    )
    read = read_manifest(tmp_path)
    assert read.digest == written.digest and read.domain is not None
    assert read.domain.scores(list(features(7, 5))) == domain.scores(list(features(7, 5)))


def manifest(**fields: Any) -> Manifest:
    fixed = {"prompt": COMPACT, "image": ImageContract(size=16, tokens_per_picture=4), "decoding": Decoding()}
    return Manifest(name="t", version="1", created="now", files={}, **fixed, **fields)


def test_the_digest_covers_what_decides_an_answer_and_not_the_probes() -> None:
    plain, with_domain = manifest(), manifest(domain=make_domain())
    assert plain.digest != with_domain.digest
    for deciding in ({"threshold": 5.0}, {"confidence_cap": 0.2}, {"trained_on": "photographs"}):
        assert manifest(domain=make_domain(**deciding)).digest != with_domain.digest
    for recorded in ({"probes": ()}, {"tolerance": 0.2}):
        assert manifest(domain=make_domain(**recorded)).digest == with_domain.digest


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": 0},
        {"threshold": -1},
        {"threshold": 1e300},
        {"threshold": float("nan")},
        {"confidence_cap": 0.99},
        {"confidence_cap": -0.1},
        {"tolerance": 1e9},
        {"tolerance": 0},
        {"trained_on": ""},
        {"features": "something else"},
        {"unknown": 1},
    ],
)
def test_numbers_that_would_switch_the_score_off_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_domain(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"width": WIDTH + 1},
        {"width": 10**9},
        {"rank": RANK + 1},
        {"rank": 0},
        {"center": "not base64!"},
        {"scale": FeatureStatistics.of(features(1, 50), RANK).directions},
        {"variances": (1.0, 1.0, 1.0, -1.0)},
        {"variances": (1.0,)},
        {"rest": 0.0},
        {"rest": float("inf")},
    ],
)
def test_statistics_that_do_not_fit_together_are_refused(changed: dict[str, Any]) -> None:
    fields = FeatureStatistics.of(features(1, 200), RANK).model_dump()
    with pytest.raises(ValidationError):
        FeatureStatistics(**fields | changed)


def test_arrays_with_values_that_are_not_finite_or_not_of_length_one_are_refused() -> None:
    fields = FeatureStatistics.of(features(1, 200), RANK).model_dump()
    for name, kind, value in (("center", "<f4", np.nan), ("scale", "<f4", -1.0), ("directions", "<f2", 9.0)):
        count = WIDTH * (RANK if name == "directions" else 1)
        broken = base64.b64encode(np.full(count, value).astype(kind).tobytes()).decode()
        with pytest.raises(ValidationError):
            FeatureStatistics(**fields | {name: broken})


@pytest.mark.parametrize("wrong", [np.zeros((5, WIDTH + 1)), np.full((5, WIDTH), np.nan), np.full((5, WIDTH), np.inf)])
def test_features_that_do_not_fit_are_an_error_and_no_score(wrong: np.ndarray) -> None:
    with pytest.raises(DomainError):
        make_domain().scores(list(wrong))


def test_a_probe_is_compared_relatively_and_nan_is_far_off() -> None:
    domain = make_domain()
    (probe,) = domain.probes
    assert domain.deviation(probe, probe.scores) == 0
    assert domain.deviation(probe, (1.0, 2.0, 3.0, 4.0, 5.5)) == pytest.approx(0.1)
    assert domain.deviation(probe, (1.0, 2.0, 3.0, 4.0, float("nan"))) == float("inf")
    assert domain.deviation(probe, ()) == float("inf")


def test_strange_pictures_are_named_as_in_the_answer() -> None:
    assert strange_pictures((0.9, 0.1, 1.0, 0.2, 7.0)) == ("B", "D")
    assert strange_pictures((1.2, 0.1, 0.1, 0.2, 0.999)) == ("original",)


def test_scores_within_the_tolerance_verify_a_domain() -> None:
    make_domain(tolerance=0.1).verify([(1.05, 2.1, 3.2, 4.3, 5.4)])


@pytest.mark.parametrize(
    "found",
    [(1.0, 2.0, 3.0, 4.0, 6.0), (1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0, float("nan")), None],
    ids=["other scores", "a score missing", "not finite", "no features"],
)
def test_scores_that_are_not_the_recorded_ones_refuse_a_domain(found: tuple[float, ...] | None) -> None:
    with pytest.raises(CheckpointError, match="does not give the domain's scores"):
        make_domain(tolerance=0.1).verify([found])


def test_a_domain_without_probes_cannot_be_verified() -> None:
    with pytest.raises(CheckpointError, match="has no probes"):
        make_domain(probes=()).verify([])
