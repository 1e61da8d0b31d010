"""The minimum pace of uploads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """The slowest upload that the service accepts."""

    seconds: float
    """Length of one period."""
    bytes_per_second: float

    @property
    def bytes(self) -> float:
        """Number of bytes that must arrive in each period."""
        return self.seconds * self.bytes_per_second
