"""Measuring a version against the one in production, on the frozen test set: what `promote` and `retrain` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.registry import Version
from screening.runtime.utc_time import utc_now_text
from trainer.data_directory import data_digest, read_samples
from trainer.evaluation.compare.command import write_comparison
from trainer.evaluation.compare.pairs import read_pairs
from trainer.products import repeated
from trainer.release.promote.evidence import (
    TestSet,
    check_unseen,
    evaluation_of,
    loses_places,
    lost_dimensions,
)
from trainer.release.promote.gate import LOST_PLACES, measure_criteria, shown_dimensions
from trainer.release.promote.limits import Limits
from trainer.release.promote.moves import GateResult
from trainer.release.promote.report import Gate, Side, write_gate
from trainer.runs.run_directory import claim


@dataclass(frozen=True, slots=True)
class Evaluations:
    """What `trainer evaluate` wrote before; None evaluates now."""

    candidate: Path | None = None
    production: Path | None = None


def measure(
    candidate: Version,
    production: Version | None,
    manifest: Manifest,
    *,
    test: TestSet,
    limits: Limits,
    out: Path,
    given: Evaluations,
) -> Gate:
    """Judge a version by the gate, and write table and flips to `out`.

    Args:
        production: None if nothing is in production; then only the floors count.
        manifest: the candidate's.

    Raises:
        CompareError, DataError, EvaluationError, EvidenceError: an input cannot be used.
        RunMismatch: `out` holds the gate of another version or mode, or other evaluations.
        OSError: a file cannot be written.
    """
    check_unseen(manifest, data_digest(test.data, read_samples(test.data)))
    claim(out, {"stage": "promote", "candidate": candidate.digest, "mode": test.mode})
    new = evaluation_of(candidate, given.candidate, test, out)
    old = evaluation_of(production, given.production, test, out) if production else new
    pairs = read_pairs(old, new, test.data)
    shown = shown_dimensions(pairs, manifest.dimensions)
    lost = lost_dimensions(production, manifest) if production else ()
    places_lost = loses_places(production, manifest) if production else False
    gate = Gate(
        created=utc_now_text(),
        candidate=Side(version=candidate.number, digest=candidate.digest, evaluation=str(new)),
        production=Side(version=production.number, digest=production.digest, evaluation=str(old))
        if production
        else None,
        mode=test.mode,
        data=pairs.after.data.digest,
        samples=len(pairs.pairs),
        products=repeated([pair.product for pair in pairs.pairs]),
        limits=limits,
        frozen=pairs.after.data.frozen,
        not_shown=tuple(dimension.title for dimension in manifest.dimensions if dimension not in shown),
        lost_dimensions=tuple(dimension.title for dimension in lost or ()),
        dimensions_unknown=lost is None,
        places_unknown=places_lost is None,
        criteria=[
            *measure_criteria(
                pairs,
                limits,
                first=production is None,
                dimensions=shown,
                lost=shown_dimensions(pairs, lost or ()),
            ),
            *([LOST_PLACES] if places_lost else []),
        ],
    )
    if production:
        write_comparison(old, new, test.data, out / flips_directory(production, candidate))
    write_gate(gate, out)
    return gate


def flips_directory(production: Version, candidate: Version) -> str:
    """Name of the folder of `measure` that holds the comparison of both versions."""
    return f"compare-{production.number}-{candidate.number}"


def summary(gate: Gate, out: Path) -> GateResult:
    """What the history of moves keeps of a gate."""
    return GateResult(
        passed=gate.passed,
        mode=gate.mode.value,
        data=gate.data,
        criteria=len(gate.criteria),
        failed=gate.failed,
        report=str(out.resolve()),
    )
