"""Download the pictures that rows give by URL, at a limited rate and with checks. A stopped download continues.

A picture is stored only if it is complete and the service would accept it. Addresses that fail do not end the run; they
are reported, and the next run tries them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from tqdm import tqdm

from screening.errors import ImageError
from screening.images import ImageLimits, accept, decode
from screening.runtime.atomic_write import write_atomically
from trainer.endpoint.pace import Clock, Pace
from trainer.runs.http_retry import TEMPORARY_STATUS, TemporaryFailure, asked_to_wait, retry_after

TRIES = 4
CONNECTIONS = 4
LONGEST_WAIT = 120.0
"""Longest accepted `Retry-After` in seconds; a picture with a longer one fails in this run."""
_USER_AGENT = "screening-trainer import-pairs"


class _Failed(Exception):
    """The request failed for a permanent reason, or after all tries."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """The result of one run."""

    fetched: int
    there: int
    """Number of pictures that an earlier run had downloaded."""
    failed: dict[str, str]
    """Failed address → reason."""


def download(urls: Mapping[str, str], images: Path, *, per_minute: float, clock: Clock | None = None) -> Downloaded:
    """Download all missing pictures.

    Args:
        urls: file name inside `images` → address.
        per_minute: maximum number of requests per minute over all hosts.

    Raises:
        OSError: a picture cannot be written. The pictures downloaded so far stay.
    """
    images.mkdir(parents=True, exist_ok=True)
    wanted = {name: url for name, url in urls.items() if not (images / name).is_file()}
    failed = asyncio.run(_fetch_all(wanted, images, per_minute, clock or Clock())) if wanted else {}
    return Downloaded(len(wanted) - len(failed), len(urls) - len(wanted), failed)


async def _fetch_all(wanted: Mapping[str, str], images: Path, per_minute: float, clock: Clock) -> dict[str, str]:
    failed: dict[str, str] = {}
    names = iter(wanted)
    pace = Pace(per_minute, clock)
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(
        headers={"User-Agent": _USER_AGENT}, follow_redirects=True, max_redirects=5, timeout=30, limits=limits
    ) as client:
        with tqdm(total=len(wanted), desc="downloading", unit="picture", disable=None) as bar:

            async def work() -> None:
                for name in names:
                    try:
                        await _fetch(client, pace, clock, wanted[name], images / name)
                    except _Failed as error:
                        failed[wanted[name]] = str(error)
                    bar.update()

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(CONNECTIONS):
                        workers.create_task(work())
            except BaseExceptionGroup as group:  # the first error is enough; the usual cause is a full disk
                raise group.exceptions[0] from None
    return failed


async def _fetch(client: httpx.AsyncClient, pace: Pace, clock: Clock, url: str, target: Path) -> None:
    """
    Raises:
        _Failed: the picture cannot be downloaded.
        OSError: the picture cannot be written.
    """
    backoff = wait_exponential_jitter(initial=1, max=30)

    def wait(state: RetryCallState) -> float:
        return max(backoff(state), asked_to_wait(state))

    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(TRIES),
            wait=wait,
            retry=retry_if_exception_type(TemporaryFailure),
            sleep=clock.sleep,
            reraise=True,
        ):
            with attempt:
                await pace.turn()
                data = await _get(client, pace, url)
    except TemporaryFailure as error:
        raise _Failed(f"{error}, {TRIES} times") from error
    try:
        await asyncio.to_thread(lambda: decode(accept(data), shrink_to=1))
    except ImageError as error:
        raise _Failed(f"the file is not a usable picture: {error}") from error
    write_atomically(target, data)


async def _get(client: httpx.AsyncClient, pace: Pace, url: str) -> bytes:
    most = ImageLimits().max_bytes
    try:
        async with client.stream("GET", url) as response:
            if response.status_code in TEMPORARY_STATUS:
                after = retry_after(response.headers) or 0.0
                if after > LONGEST_WAIT:
                    raise _Failed(f"the server answers {response.status_code} and asks to wait {after:.0f} s")
                pace.hold(after)
                raise TemporaryFailure(f"the server answers {response.status_code}", after)
            if response.status_code != httpx.codes.OK:
                raise _Failed(f"the server answers {response.status_code}")
            data = bytearray()
            async for part in response.aiter_bytes():
                data += part
                if len(data) > most:
                    raise _Failed(f"the file has more than {most // 2**20} MiB")
            return bytes(data)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise _Failed(str(error)) from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise TemporaryFailure(str(error) or type(error).__name__) from error
