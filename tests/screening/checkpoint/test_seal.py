"""Probes are tied to everything that they were recorded on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Mode
from screening.calibration import Calibration, Curve, Shifts
from screening.checkpoint.manifest import (
    Decoding,
    FileEntry,
    ImageContract,
    Manifest,
    Tensor,
    read_manifest,
    store_manifest,
)
from screening.checkpoint.probes import Probe, Probes, Reading
from screening.checkpoint.seal import FOR_PEOPLE, check_seal, is_sealed, seal_of, sealed, verdict_key
from screening.errors import CheckpointDamaged
from screening.prompt import COMPACT, STANDARD
from screening.task import Dimension
from tests.screening.checkpoint.test_domain import make_domain

SHA = "sha256:" + "0" * 64


@pytest.fixture
def manifest() -> Manifest:
    """Sealed, with something in every field."""
    probe = Probe(seed=0, mode=Mode.COT, answer="x", logprobs=(-1.0, -2.0), exact=(-1.01, -2.01))
    reading = Reading(vocabulary=SHA, prompts=dict.fromkeys(Mode, SHA))
    return sealed(
        Manifest(
            name="test",
            version="1",
            created="2026-01-01T00:00:00+00:00",
            prompt=COMPACT,
            image=ImageContract(size=112, tokens_per_picture=16),
            decoding=Decoding(),
            calibration={Mode.COT: Calibration(option=Curve(slope=0.5))},
            probes=Probes(questions=(probe,), tolerance=0.01, machine="there", reading=reading),
            files={"model.safetensors": FileEntry(size=1, sha256="0" * 64)},
            tensors={"a": Tensor("BF16", (2, 3))},
        )
    )


def probes_with(**changes: Any) -> Callable[[Manifest], Any]:
    return lambda manifest: manifest.probes.model_copy(update=changes)  # type: ignore[union-attr]


CHANGES: dict[str, Callable[[Manifest], Any]] = {
    "prompt": lambda _: STANDARD,
    "dimensions": lambda _: (Dimension.SHADOW,),
    "image": lambda _: ImageContract(size=128, tokens_per_picture=16),
    "decoding": lambda _: Decoding(max_tokens_cot=512),
    "calibration": lambda _: {Mode.COT: Calibration(option=Curve(slope=0.5), shifts=Shifts(A=3.0))},
    "files": lambda _: {"model.safetensors": FileEntry(size=1, sha256="1" * 64)},
    "tensors": lambda _: {"a": Tensor("BF16", (3, 2))},
    "domain": lambda _: make_domain(),
}
PROBES: dict[str, Any] = {
    "questions": (Probe(seed=0, mode=Mode.COT, answer="x", logprobs=(-1.0, -2.1), exact=(-1.01, -2.01)),),
    "tolerance": 1.0,
    "machine": "elsewhere",
    "reading": None,
    "confidences": {},
}


def test_a_sealed_manifest_stays_sealed_on_disk(manifest: Manifest, tmp_path: Path) -> None:
    store_manifest(manifest, tmp_path)
    read = read_manifest(tmp_path)
    assert read == manifest and is_sealed(read)
    check_seal(read)


@pytest.mark.parametrize("field", CHANGES)
def test_fields_that_decide_an_answer_are_sealed(field: str, manifest: Manifest) -> None:
    changed = manifest.model_copy(update={field: CHANGES[field](manifest)})
    with pytest.raises(CheckpointDamaged, match="recorded on something else"):
        check_seal(changed)


@pytest.mark.parametrize("field", PROBES)
def test_the_probes_themselves_cannot_be_changed_under_the_seal(field: str, manifest: Manifest) -> None:
    changed = manifest.model_copy(update={"probes": probes_with(**{field: PROBES[field]})(manifest)})
    with pytest.raises(CheckpointDamaged, match="recorded on something else"):
        check_seal(changed)


def test_fields_for_people_are_not_sealed(manifest: Manifest) -> None:
    texts = {"name": "other", "version": "2", "created": "now", "base": "b", "parent": SHA}
    check_seal(manifest.model_copy(update=texts | {"scores": {"a": 1}, "data": {"b": 2}, "recipe": {"c": 3}}))


def test_every_field_is_either_sealed_or_for_people() -> None:
    """A new field is sealed by default."""
    assert Manifest.model_fields.keys() == FOR_PEOPLE | CHANGES.keys() | {"format", "probes"}
    assert Probes.model_fields.keys() == PROBES.keys() | {"seal"}


def test_probes_without_a_seal_prove_nothing(manifest: Manifest) -> None:
    unsealed = manifest.model_copy(update={"probes": probes_with(seal=None)(manifest)})
    with pytest.raises(CheckpointDamaged, match=r"do not say what they were recorded on.*--again"):
        check_seal(unsealed)
    check_seal(manifest.model_copy(update={"probes": None}))


def test_a_calibration_must_give_what_it_gave_even_where_it_was_sealed_again(manifest: Manifest) -> None:
    assert manifest.probes is not None
    changed = manifest.model_copy(update={"calibration": CHANGES["calibration"](manifest)})
    probes = manifest.probes.model_copy(update={"seal": seal_of(changed)})
    with pytest.raises(CheckpointDamaged, match="calibration does not give the confidences"):
        check_seal(changed.model_copy(update={"probes": probes}))


def test_a_verdict_is_about_the_whole_manifest(manifest: Manifest) -> None:
    others = [
        manifest.model_copy(update={"probes": probes_with(tolerance=0.02)(manifest)}),
        manifest.model_copy(update={"name": "other"}),
    ]
    verdicts = {verdict_key(one) for one in (manifest, *others)}
    assert len(verdicts) == 3
    assert {verdict.partition("@")[0] for verdict in verdicts} == {manifest.digest}


def test_a_field_that_a_later_version_adds_does_not_break_the_seal_of_this_one(manifest: Manifest) -> None:
    class Later(Manifest):
        added: int | None = None

    later = Later.model_validate_json(manifest.model_dump_json())
    check_seal(later)
    with pytest.raises(CheckpointDamaged, match="recorded on something else"):
        check_seal(later.model_copy(update={"added": 1}))
