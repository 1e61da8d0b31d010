"""Seeds of everything random, computed from what they are for and never from a position in a list.

So a product that is added, removed or moved changes no other picture.
"""

from __future__ import annotations

import hashlib
import json


def seed_of(*parts: str | int) -> int:
    """A seed of 63 bits, different for different parts."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
