"""Parses the API keys in the settings: each entry has the SHA-256 of a key and a name for the log."""

from __future__ import annotations

import re
from typing import NamedTuple

_ENTRY = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]{1,64}):)?(?P<sha256>[0-9a-fA-F]{64})")
_PREFIX = 8
"""Number of leading digits of the hash that serve as the name of a key without a name."""


class NamedKey(NamedTuple):
    """Name and SHA-256 of an API key. The service never knows the key itself."""

    name: str
    sha256: str


def named_keys(text: str) -> tuple[NamedKey, ...]:
    """Parse `shop:HASH,importer:HASH,HASH`. Several keys may share a name, for example during a key rotation.

    Raises:
        ValueError: an entry has another form, or two entries have the same hash. The message does not repeat the
            entry, because it may be a key.
    """
    keys: list[NamedKey] = []
    for number, entry in enumerate((part.strip() for part in text.split(",")), 1):
        if not entry:
            continue
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(
                f"entry {number} is not the SHA-256 of a key. Give 64 hexadecimal digits, as "
                'printf %s "$KEY" | sha256sum prints them, or NAME: followed by these digits'
            )
        digest = match["sha256"].lower()
        if any(digest == key.sha256 for key in keys):
            raise ValueError(f"entry {number} repeats the hash of an earlier entry")
        keys.append(NamedKey(match["name"] or digest[:_PREFIX], digest))
    return tuple(keys)
