"""Enforces the minimum pace of an upload and lets a full service evict a slow one.

An upload may take any time while it keeps its pace: in each period of `Pace.seconds`, at least
`Pace.seconds x Pace.bytes_per_second` must arrive. A period begins as soon as the bytes of the previous one are there.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from service.config.upload_pace import Pace
from service.errors import BodyTimeout, Overloaded, ServiceError, UploadTooSlow


class Upload:
    """The upload of one body. Read the body inside `async with upload:` and call `arrived` after each piece."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._limit = asyncio.timeout(pace.seconds)
        self._began = self._last = asyncio.get_running_loop().time()
        self._total = 0
        self._in_period = 0
        self._retry_after: int | None = None

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """
        Raises:
            BodyTimeout: the body stopped arriving.
            UploadTooSlow: the body arrived too slowly.
            Overloaded: the upload was evicted.
        """
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._failure() from None
        if kind is None and self._retry_after is not None:
            raise self._failure()  # The last piece arrived before the eviction took effect.

    def arrived(self, size: int) -> None:
        """Count the bytes of a piece of the body."""
        self._last = asyncio.get_running_loop().time()
        self._total += size
        self._in_period += size
        # An eviction takes effect in the next turn of the event loop, and another deadline would cancel it.
        ends = self._retry_after is not None or self._limit.expired()
        if self._in_period >= self._pace.bytes and not ends:
            self._in_period = 0
            self._limit.reschedule(self._last + self._pace.seconds)

    @property
    def can_be_evicted(self) -> bool:
        """Whether the upload has had at least one whole period."""
        over = asyncio.get_running_loop().time() - self._began > self._pace.seconds
        return over and not self._limit.expired()

    def evict(self, retry_after: int) -> None:
        """End the upload in favour of a request that would otherwise be refused."""
        self._retry_after = retry_after
        self._limit.reschedule(asyncio.get_running_loop().time())

    def _failure(self) -> ServiceError:
        if self._retry_after is not None:
            return Overloaded(self._retry_after, "The queue is full, and this upload was slow.")
        seconds = self._pace.seconds
        if asyncio.get_running_loop().time() - self._last > seconds / 2:
            return BodyTimeout(
                f"The body stopped arriving after {self._total} bytes; the service waited {seconds:g} s. "
                "Send the request again."
            )
        return UploadTooSlow(
            f"Only {self._in_period} bytes of the body arrived within {seconds:g} s; at least "
            f"{self._pace.bytes:.0f} are required. Send smaller pictures, or use a faster connection."
        )
