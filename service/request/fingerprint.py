"""When two requests are the same: digests of what they ask, whatever encoding it came in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from screening.answer import Mode


def content_digest(mode: Mode, pictures: Iterable[bytes]) -> bytes:
    """sha256 of all that the model is shown: the mode and the raw bytes of original, A, B, C, D."""
    return _digest(mode.value.encode(), *pictures)


def work_key(checkpoint: str, content: bytes) -> bytes:
    """What decides an answer: the digest of a checkpoint (prompt, decoding and calibration are in it) and a content."""
    return _digest(checkpoint.encode(), content)


def request_fingerprint(content: bytes, metadata: dict[str, Any], review_below: float | None) -> bytes:
    """What decides a response: the content, the metadata that it echoes and the threshold for `needs_review`."""
    return _digest(content, json.dumps(metadata, sort_keys=True).encode(), repr(review_below).encode())


def _digest(*parts: bytes) -> bytes:
    """sha256 over parts and their lengths, so that no two lists of parts are the same text."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8))
        whole.update(part)
    return whole.digest()
