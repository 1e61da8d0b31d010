"""Whether an engine scores pictures as the domain of the checkpoint says; see `screening.checkpoint.domain`.

A stale or broken score would let every picture pass, or flag all of them, and no answer would show that. So the domain
carries probes: pictures that every service can draw, with the scores that the publisher's engine found.
"""

from __future__ import annotations

import logging

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import probe_pictures
from screening.errors import CheckpointError
from service.engines.protocol import Engine
from service.logs import log

LOGGER = logging.getLogger(
    "service.checkpoints.hot_swap"
)  # what becomes of the served checkpoint is one story in the log


async def prove_domain(engine: Engine, manifest: Manifest) -> None:
    """Compare the engine's scores with those recorded. A checkpoint without a domain is served without a score.

    Raises:
        CheckpointError: the scores differ by more than the recorded tolerance, there are none, or none are recorded.
    """
    if (domain := manifest.domain) is None:
        log(LOGGER, logging.INFO, "checkpoint without a domain: no out-of-domain score", digest=manifest.digest)
        return
    if not domain.probes:
        raise CheckpointError("the checkpoint's domain carries no probes; run `python -m trainer domain` again")
    for probe in domain.probes:
        found = await engine.domain_scores(probe_pictures(probe.seed, manifest.image.size))
        off = domain.deviation(probe, found or ())
        if off > domain.tolerance:
            raise CheckpointError(
                f"the engine does not give the domain's scores: {off:.3g} off where {domain.tolerance:.3g} is tolerated"
            )
