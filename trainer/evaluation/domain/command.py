"""`python -m trainer domain`: describes the pictures that a checkpoint was trained on, in its manifest.

Weights, files and probes stay. The digest changes, because answers do: a service flags pictures of another kind and
lowers its confidence. So run this command before `evaluate` and `publish`, like `calibrate`. Services refuse a
published checkpoint that was described again, until it is published again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from screening.errors import UserError
from trainer.evaluation.domain.fit import TARGET
from trainer.runs.arguments import add_directory
from trainer.runs.sigterm import engine_ends_on_sigterm

if TYPE_CHECKING:
    from screening.checkpoint.domain import Domain, DomainProbe
    from screening.checkpoint.manifest import Manifest
    from trainer.evaluation.domain.features import Extract

    OpenExtractor = Callable[..., AbstractContextManager[Extract]]

SEEDS = (0,)
"""Seeds of the probes' pictures. `trainer publish` starts with the same seed."""
LEAST_TOLERANCE = 0.02
"""Smallest relative tolerance. For the tiny checkpoint, repeats on one machine do not differ; other kinds of machines
were not measured."""
MARGIN = 4.0
"""Tolerance as a multiple of this machine's difference to float32."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser, "--checkpoint", "checkpoint to describe; its manifest is changed")
    add_directory(
        parser,
        "--data",
        "data directory of the domain, of at least 400 questions about 100 products, but not the test data; its labels "
        "decide only the confidence cap",
    )
    parser.add_argument(
        "--trained-on",
        required=True,
        metavar="WORDS",
        help='the domain in at most 200 characters, for example "rendered product pictures"',
    )
    parser.add_argument(
        "--target",
        type=float,
        default=TARGET,
        metavar="SHARE",
        help="target false-positive rate: share of in-domain questions that may be flagged, above 0 and at most 0.1 "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from trainer.evaluation.domain.errors import DomainFitError

    if not 0 < args.target <= 0.1:
        raise UserError(f"--target: {args.target:g} is not above 0 and at most 0.1")
    if not 0 < len(args.trained_on.strip()) <= 200:
        raise UserError("--trained-on: describe the domain in 1 to 200 characters")
    try:
        with engine_ends_on_sigterm():
            print(describe(args.checkpoint, args.data, args.trained_on.strip(), target=args.target))
    except RuntimeError as error:  # vLLM does not start
        raise DomainFitError(str(error)) from error
    return 0


def describe(
    checkpoint: Path,
    data: Path,
    trained_on: str,
    *,
    target: float = TARGET,
    open_extractor: OpenExtractor | None = None,
) -> str:
    """Write the domain into the checkpoint's manifest. Returns a report for people.

    The same inputs on the same machine give the same manifest.

    Args:
        open_extractor: starts the engine that encodes pictures: vLLM, unless a test gives another one.

    Raises:
        CheckpointError: the checkpoint is incomplete or was changed.
        DataError: the data directory cannot be used.
        DomainFitError: there are too few data, or the engine gives no features.
        RuntimeError: vLLM failed.
        OSError: the manifest cannot be written, and is unchanged.
    """
    from screening.checkpoint.directory import verify
    from screening.checkpoint.domain import Domain, DomainCalibration
    from trainer.data.split.divide import is_test_set
    from trainer.data.split.held_out import read_items
    from trainer.data_directory import data_digest, read_samples
    from trainer.evaluation.changed_manifest import store_changed
    from trainer.evaluation.domain.errors import DomainFitError
    from trainer.evaluation.domain.features import features_of_samples
    from trainer.evaluation.domain.features import open_extractor as open_vllm
    from trainer.evaluation.domain.fit import fit, refuse_too_few
    from trainer.metrics import random_baseline

    manifest = verify(checkpoint)
    if (tiles := manifest.image.max_patches) > 1:
        raise DomainFitError(
            f"{checkpoint} cuts a picture into up to {tiles} tiles, and the engine gives features only of whole "
            "pictures. Serve it without a domain; its answers then have no out-of-domain warnings"
        )
    samples = read_samples(data)
    digest = data_digest(data, samples)
    if digest in manifest.scored_on or is_test_set(data, digest):
        raise DomainFitError(f"{data} is test data, on which too few pictures would be flagged later. Give other data")
    products = [item.product for item in read_items(data)]
    refuse_too_few(products)
    opener = open_extractor or open_vllm
    with opener(checkpoint, manifest) as extract:
        found = fit(features_of_samples(extract, samples, data, manifest.image), products, target)
        guess = (random_baseline([sample.options for sample in samples]) or 0.0) / 100
        domain = Domain(
            trained_on=trained_on,
            confidence_cap=round(min(0.5, guess), 4),
            statistics=found.statistics,
            threshold=found.threshold,
            calibration=DomainCalibration(
                data=(digest,),
                pictures=found.pictures,
                questions=found.questions,
                target=target,
            ),
        )
        probes = probes_of(domain, extract, manifest)
    tolerance = _tolerance(domain, probes, opener, checkpoint, manifest)
    after = manifest.model_copy(update={"domain": domain.model_copy(update={"probes": probes, "tolerance": tolerance})})
    changed = store_changed(manifest, after, checkpoint)
    return (
        f"domain: {trained_on}; {found.pictures} pictures describe it, and {found.questions} questions about other "
        "products set the threshold "
        f"({100 * target:g} % of them may be flagged), confidence out of it at most {domain.confidence_cap:g}.\n"
        f"Probes: tolerance {tolerance:.3f}.\n{changed}"
    )


def probes_of(domain: Domain, extract: Extract, manifest: Manifest) -> tuple[DomainProbe, ...]:
    """The probes: pictures that every service can make, with the scores that this engine gives them."""
    from screening.checkpoint.domain import DomainProbe
    from screening.checkpoint.probes import probe_pictures

    features = extract([probe_pictures(seed, manifest.image.size) for seed in SEEDS])
    return tuple(
        DomainProbe(seed=seed, scores=domain.scores(list(each))) for seed, each in zip(SEEDS, features, strict=True)
    )


def _tolerance(
    domain: Domain, probes: tuple[DomainProbe, ...], opener: OpenExtractor, checkpoint: Path, manifest: Manifest
) -> float:
    """Relative tolerance of a score on another machine: a multiple of this machine's difference to float32."""
    with opener(checkpoint, manifest, dtype="float32") as extract:
        exact = probes_of(domain, extract, manifest)
    off = max(domain.deviation(probe, other.scores) for probe, other in zip(probes, exact, strict=True))
    return min(0.25, max(LEAST_TOLERANCE, MARGIN * off))
