"""How fast a body must arrive, and which upload gives up its place when the service is full.

An upload may take as long as it needs while it keeps its pace: in each period of `Pace.seconds` at least
`Pace.seconds x Pace.bytes_per_second` must arrive. A period begins when the bytes of the one before it are complete.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from service.config.upload_pace import Pace
from service.errors import BodyTimeout, Overloaded, ServiceError, UploadTooSlow


class Upload:
    """One body on its way: `async with upload:` around reading it, `arrived` after each piece."""

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
            UploadTooSlow: it arrived too slowly.
            Overloaded: it was sent away.
        """
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._failure() from None

    def arrived(self, size: int) -> None:
        """Count a piece of the body."""
        self._last = asyncio.get_running_loop().time()
        self._total += size
        self._in_period += size
        if self._in_period >= self._pace.bytes and not self._limit.expired():
            self._in_period = 0
            self._limit.reschedule(self._last + self._pace.seconds)

    @property
    def can_be_sent_away(self) -> bool:
        """Whether it has had its fair time: a whole period."""
        over = asyncio.get_running_loop().time() - self._began > self._pace.seconds
        return over and not self._limit.expired()

    def send_away(self, retry_after: int) -> None:
        """End it in favour of a request that would be refused otherwise."""
        self._retry_after = retry_after
        self._limit.reschedule(asyncio.get_running_loop().time())

    def _failure(self) -> ServiceError:
        if self._retry_after is not None:
            return Overloaded(self._retry_after, "The queue is full, and this upload took long.")
        seconds = self._pace.seconds
        if asyncio.get_running_loop().time() - self._last > seconds / 2:
            return BodyTimeout(f"The body stopped after {self._total} bytes; the service waited for {seconds:g} s.")
        return UploadTooSlow(
            f"Only {self._in_period} bytes of the body arrived within {seconds:g} s; at least "
            f"{self._pace.bytes:.0f} must. Send smaller pictures, or use a faster connection."
        )
