"""Prepares the process environment for libraries that read it on import."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping

from screening.runtime.cpus import limit_threads
from screening.runtime.environment import name_the_user
from service.logs import log

LOGGER = logging.getLogger("service.server.environment")


def prepare(environment: MutableMapping[str, str]) -> None:
    """Apply the CPU quota, set a user name and keep metrics in memory. Call this before importing other modules."""
    limit_threads(environment)
    name_the_user(environment)
    for variable in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        if environment.pop(variable, None) is not None:
            # With this variable, prometheus_client stores metrics in files of a directory, which must exist.
            text = f"{variable} is ignored, because the service is a single process and keeps its metrics in memory"
            log(LOGGER, logging.WARNING, text)
