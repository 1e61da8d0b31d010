"""Keys of callers, as the settings give them: each has a name for logs and the SHA-256 of the key itself."""

from __future__ import annotations

import re
from typing import NamedTuple

_ENTRY = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]{1,64}):)?(?P<sha256>[0-9a-fA-F]{64})")
_PREFIX = 8
"""Hexadecimal digits of its hash that name a key without a name."""


class NamedKey(NamedTuple):
    """A key that may call, without the key."""

    name: str
    sha256: str


def named_keys(text: str) -> tuple[NamedKey, ...]:
    """Read `shop:HASH,importer:HASH,HASH`. Several keys may have one name, for instance while one replaces the other.

    Raises:
        ValueError: an entry is neither, or two entries have the same hash. The message does not repeat the entry, which
            may be a key.
    """
    keys: list[NamedKey] = []
    for number, entry in enumerate((part.strip() for part in text.split(",")), 1):
        if not entry:
            continue
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(
                f"entry {number}: give the SHA-256 of the key and not the key itself: 64 hexadecimal digits, as "
                'printf %s "$KEY" | sha256sum prints them, or NAME: and these digits'
            )
        digest = match["sha256"].lower()
        if any(digest == key.sha256 for key in keys):
            raise ValueError(f"entry {number} repeats the hash of an earlier entry")
        keys.append(NamedKey(match["name"] or digest[:_PREFIX], digest))
    return tuple(keys)
