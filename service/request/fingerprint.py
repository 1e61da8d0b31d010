"""Digests that identify equal requests, independent of the encoding of their bodies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from screening.answer import Mode


def question_digest(mode: Mode, pictures: Iterable[bytes], locate: bool = False) -> bytes:
    """SHA-256 of the question to the model: mode, whether it is to locate issues, and bytes of original, A, B, C, D."""
    return _digest(mode.value.encode() + (b"+locate" if locate else b""), *pictures)


def work_key(checkpoint: str, question: bytes) -> bytes:
    """Key of everything that determines an answer: the question, and the checkpoint with its prompt and calibration.

    Args:
        checkpoint, question: their digests.
    """
    return _digest(checkpoint.encode(), question)


def request_fingerprint(question: bytes, metadata: dict[str, Any], review_below: float | None) -> bytes:
    """Digest of everything that determines a response: the question, the metadata and the threshold for review.

    Args:
        question: its digest.
    """
    return _digest(question, json.dumps(metadata, sort_keys=True).encode(), repr(review_below).encode())


def _digest(*parts: bytes) -> bytes:
    """SHA-256 over the parts and their lengths, so that different lists of parts never have the same input."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8))
        whole.update(part)
    return whole.digest()
