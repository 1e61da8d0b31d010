"""Whether an engine scores pictures as the domain of the checkpoint says; see `screening.checkpoint.domain`.

A stale or broken score would let every picture pass, or flag all of them, and no answer would show that. So the domain
carries probes: pictures that every service can draw, with the scores that the publisher's engine found.
"""

from __future__ import annotations

import logging

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import probe_pictures
from service.engines.protocol import Engine
from service.logs import log

LOGGER = logging.getLogger(
    "service.checkpoints.hot_swap"
)  # what becomes of the served checkpoint is one story in the log


async def prove_domain(engine: Engine, manifest: Manifest) -> None:
    """Compare the engine's scores with those recorded. A checkpoint without a domain is served without a score.

    Raises:
        CheckpointError: see `screening.checkpoint.domain.Domain.verify`.
    """
    if (domain := manifest.domain) is None:
        log(LOGGER, logging.INFO, "checkpoint without a domain: no out-of-domain score", digest=manifest.digest)
        return
    size = manifest.image.size
    domain.verify([await engine.domain_scores(probe_pictures(probe.seed, size)) for probe in domain.probes])
