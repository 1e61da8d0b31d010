"""The slowest upload that the service accepts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """The slowest upload that is accepted."""

    seconds: float
    bytes_per_second: float

    @property
    def bytes(self) -> float:
        """What must arrive in one period."""
        return self.seconds * self.bytes_per_second
