"""Detects filler in place of the last part of a file, which failed downloads and full disks leave."""

from __future__ import annotations

FILLER_BYTES = 256
"""Length of the repetition that counts as filler. Compressed data of a picture hardly ever repeat that long."""
SPARE_BYTES = 32
"""Number of bytes in such a repetition that a complete picture may contain without needing them."""
_LONGEST_PERIOD = 64


def ends_in_filler(data: bytes, start: int, end: int) -> bool:
    """Whether the last `FILLER_BYTES` of `data[start:end]` repeat one byte, or a group of up to 64 bytes."""
    if end - start < 2 * FILLER_BYTES:
        return False
    tail = data[end - FILLER_BYTES : end]
    return any(tail[period:] == tail[:-period] for period in range(1, _LONGEST_PERIOD + 1))
