"""Checks whether the services serve the new model. Their metrics say so, and need no key."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from trainer.release.retrain.config import Confirm
from trainer.release.retrain.errors import Unconfirmed

METRIC = "screening_checkpoint_info"
ASK_SECONDS = 10.0
"""Request timeout of one service, in seconds."""


def confirm(settings: Confirm, digest: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Wait until every service reports a digest.

    Raises:
        Unconfirmed: a service does not report it within the configured time.
    """
    began = time.monotonic()
    while True:
        found = {url: served_by(url) for url in addresses(settings)}
        waiting = {url: state for url, state in found.items() if state != digest}
        if found and not waiting:
            return {"services": sorted(found), "seconds": round(time.monotonic() - began, 1)}
        if time.monotonic() - began > settings.timeout_seconds:
            raise Unconfirmed(_complaint(waiting, digest, settings))
        tell(f"  waiting for {len(waiting) or 'any'} of {len(found)} services")
        time.sleep(settings.interval_seconds)


def addresses(settings: Confirm) -> Sequence[str]:
    """The URLs to ask; with `every_address`, one for each address of a host name."""
    if not settings.every_address:
        return settings.services
    return sorted({url for service in settings.services for url in _each_address(service)})


def served_by(url: str) -> str:
    """Digest of the checkpoint that a service serves, or why it is not known."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        # Services inside the cluster are asked directly, not through a proxy.
        with build_opener(ProxyHandler({})).open(f"{url}/metrics", timeout=ASK_SECONDS) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == METRIC and sample.value == 1:
                    return str(sample.labels.get("digest", ""))
    except (HTTPException, OSError, ValueError, LookupError) as error:  # also what is not HTTP, or not metrics
        return f"no answer ({type(error).__name__}: {error})"
    return f"no {METRIC} among its metrics"


def _each_address(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError:
        return
    for *_, address in found:
        host, port = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        yield f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path}"


def _complaint(waiting: dict[str, str], digest: str, settings: Confirm) -> str:
    each = "; ".join(f"{url}: {state}" for url, state in sorted(waiting.items())) or "no service was found"
    return (
        f"some services do not serve {digest} after {settings.timeout_seconds:g} s ({each}). Production has moved; "
        "look at the log and /admin/checkpoint of these services, or roll back"
    )
