"""Filler in place of a file's last part, as failed downloads and full disks leave it."""

from __future__ import annotations

FILLER_BYTES = 256
"""Shortest run at the end of compressed data that is looked at. Compressed data of a picture hardly repeat so long."""
SPARE_BYTES = 32
"""Bytes of such a run that a whole picture may have and not need."""
_LONGEST_PERIOD = 64


def ends_in_filler(data: bytes, start: int, end: int) -> bool:
    """Whether the last `FILLER_BYTES` of `data[start:end]` repeat one byte, or a group of up to 64 bytes."""
    if end - start < 2 * FILLER_BYTES:
        return False
    tail = data[end - FILLER_BYTES : end]
    return any(tail[period:] == tail[:-period] for period in range(1, _LONGEST_PERIOD + 1))
