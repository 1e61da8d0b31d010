"""Parses API keys, of the settings and of a keys file. Of each key the service knows a name, scopes and the SHA-256."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

Scope = Literal["screen", "feedback", "review", "admin"]
"""What a key may do: call `/screen`, read decisions and send feedback, review, or operate the service."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
_IMPLIED: dict[str, tuple[Scope, ...]] = {"admin": ("feedback", "review")}
"""Scopes that another one includes."""

NAME = "[A-Za-z0-9._-]{1,64}"
_SHA256 = "[0-9a-fA-F]{64}"
_ENTRY = re.compile(f"(?:(?P<name>{NAME}):)?(?P<sha256>{_SHA256})")
_PREFIX = 8
"""Number of leading digits of the hash that serve as the name of a key without a name."""


class NamedKey(NamedTuple):
    """Name and SHA-256 of an API key. The service never knows the key itself."""

    name: str
    sha256: str


class ScopedKey(NamedTuple):
    """An API key and what it may do."""

    name: str
    sha256: str
    scopes: frozenset[Scope]
    """All scopes, also those that another one includes."""


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


def scoped(key: NamedKey, *scopes: Scope) -> ScopedKey:
    """A key with these scopes and those that they include."""
    return ScopedKey(*key, frozenset(scopes).union(*(_IMPLIED.get(scope, ()) for scope in scopes)))


def keys_in(text: str) -> tuple[ScopedKey, ...]:
    """Parse the content of a keys file: one key for each line, `NAME SCOPE[,SCOPE] SHA256`. `#` begins a comment.

    Raises:
        ValueError: a line has another form, two lines have the same hash, or there is no key. The message does not
            repeat the line, because it may contain a key.
    """
    keys: dict[str, ScopedKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := line.partition("#")[0].split()):
            continue
        try:
            key = _key_in(words)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if key.sha256 in keys:
            raise ValueError(f"line {number}: an earlier line has the same hash. Give each key one line")
        keys[key.sha256] = key
    if not keys:
        raise ValueError("there is no key in it. Add a line that `python -m service key NAME --scope SCOPE` prints")
    return tuple(keys.values())


def _key_in(words: list[str]) -> ScopedKey:
    if len(words) != 3:
        raise ValueError("this is not NAME SCOPE[,SCOPE] SHA256, three words separated by spaces")
    name, scopes, sha256 = words
    if re.fullmatch(NAME, name) is None:
        raise ValueError("the name may have 1 to 64 letters, digits, dots, hyphens and underscores")
    if re.fullmatch(_SHA256, sha256) is None:
        raise ValueError('the hash is not 64 hexadecimal digits, as printf %s "$KEY" | sha256sum prints them')
    return scoped(NamedKey(name, sha256.lower()), *_scopes_in(scopes))


def _scopes_in(text: str) -> Iterator[Scope]:
    known = {scope: scope for scope in SCOPES}
    for word in text.split(","):
        if word not in known:
            raise ValueError(f"the scopes must be some of {', '.join(SCOPES)}, separated by commas without spaces")
        yield known[word]
