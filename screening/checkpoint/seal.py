"""The seal: a digest that ties a checkpoint's probes to everything that they were recorded on.

Probes show that an engine holds the checkpoint that they were recorded on. They show nothing about a directory whose
files, prompt or calibration were changed afterwards, with the old probes in the new manifest. `trainer publish`
therefore seals the manifest when it has recorded the probes. The seal covers everything that decides an answer, the
probes included, and a field that a later version adds is covered without a change here. Only the fields for people are
left out.

A seal is not a signature: everyone who can write to the store can also seal. It detects changes by mistake, by a tool
or by a person who did not record the probes again. docs/decisions/hot-swap.md says what it cannot detect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from screening.answer import Mode
from screening.calibration import Calibration, trace
from screening.checkpoint.manifest import Manifest
from screening.errors import CheckpointDamaged
from screening.runtime.digests import json_digest

FOR_PEOPLE = frozenset({"name", "version", "created", "base", "parent", "scores", "data", "recipe"})
"""Fields of a manifest for people, which decide no answer."""
_SAME = 1e-6
"""Maximum difference of equal confidences: the exponential functions of two machines may differ in the last digit."""


def seal_of(manifest: Manifest) -> str:
    """Return `sha256:…` over the manifest without the fields for people and without its own seal."""
    # Without defaults, so that a field that a later version adds does not break the seals of this one.
    content = manifest.model_dump(mode="json", exclude=set(FOR_PEOPLE), exclude_defaults=True)
    content.get("probes", {}).pop("seal", None)
    return json_digest(content)


def verdict_key(manifest: Manifest) -> str:
    """Return the key of a verdict on a checkpoint: `DIGEST@sha256:…`, the second digest over the whole manifest.

    The digest alone is not enough: a verdict on one set of probes says nothing about the same checkpoint with others.
    """
    return f"{manifest.digest}@{json_digest(manifest.model_dump(mode='json'))}"


def sealed(manifest: Manifest) -> Manifest:
    """Return the manifest with its seal. Only the publisher that recorded the probes may call this."""
    if manifest.probes is None:
        return manifest
    confidences = {mode: trace(calibration) for mode, calibration in sorted(manifest.calibration.items())}
    probes = manifest.probes.model_copy(update={"confidences": confidences, "seal": None})
    unsealed = manifest.model_copy(update={"probes": probes})
    return manifest.model_copy(update={"probes": probes.model_copy(update={"seal": seal_of(unsealed)})})


def is_sealed(manifest: Manifest) -> bool:
    """Whether the probes were recorded on the checkpoint that the manifest describes."""
    return manifest.probes is not None and manifest.probes.seal == seal_of(manifest)


def check_seal(manifest: Manifest) -> None:
    """Compare a manifest with its seal, and its calibration with the confidences that it gave at publishing.

    A manifest without probes has no seal. The caller decides whether it may be served.

    Raises:
        CheckpointDamaged: a sealed part differs, or there is no seal.
    """
    if manifest.probes is None:
        return
    publish = "Publish the checkpoint again: `python -m trainer publish --again`"
    if manifest.probes.seal is None:
        raise CheckpointDamaged(f"its probes do not say what they were recorded on. {publish}")
    if not is_sealed(manifest):
        raise CheckpointDamaged(
            "its files, prompt, calibration or probes were changed after it was published, so its probes were recorded "
            f"on something else. {publish}"
        )
    if not _gives(manifest.calibration, manifest.probes.confidences):
        raise CheckpointDamaged(f"its calibration does not give the confidences that it gave at publishing. {publish}")


def _gives(calibration: Mapping[Mode, Calibration], wanted: Mapping[Mode, Sequence[float]]) -> bool:
    found = {mode: trace(of_mode) for mode, of_mode in calibration.items()}
    return found.keys() == wanted.keys() and all(
        len(found[mode]) == len(values) and all(abs(a - b) < _SAME for a, b in zip(found[mode], values, strict=True))
        for mode, values in wanted.items()
    )
