"""The API keys that the service accepts: those of the settings, and those of a file, which may change meanwhile."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from service.config.named_keys import Scope, ScopedKey, keys_in, scoped
from service.config.settings import Settings
from service.logs import log
from service.metrics import Metrics

LOGGER = logging.getLogger("service.http.keys")

POLL_SECONDS = 1.0
"""Time between two reads of the keys file. A new content counts when two successive reads agree."""
_MAX_BYTES = 2**20
"""Maximum size of the keys file: a path to something else must not fill the memory."""


class KeysFileError(Exception):
    """The keys file cannot be used; the message says why and what to do."""


class KeyRing:
    """All keys. Safe to use from several threads."""

    def __init__(self, settings: Settings, metrics: Metrics, *, poll_seconds: float = POLL_SECONDS) -> None:
        """
        Raises:
            KeysFileError: the keys file is missing, unreadable or wrong.
        """
        self._metrics, self._poll_seconds = metrics, poll_seconds
        self._path = settings.keys_file
        self._of_settings = _of_settings(settings)
        self._content = self._candidate = b"" if self._path is None else _read(self._path)
        of_file = () if self._path is None else _parse(self._path, self._content)
        self.keys = _merged(self._of_settings + of_file)
        """The keys that count now."""
        self._failure: str | None = None
        self._end = threading.Event()

    def find(self, key: bytes) -> ScopedKey | None:
        """The entry of this key; None for an unknown key. Every hash is compared in constant time."""
        digest = hashlib.sha256(key).hexdigest()
        matches = [one for one in self.keys if hmac.compare_digest(digest, one.sha256)]
        return matches[0] if matches else None

    def any_with(self, scope: Scope) -> bool:
        """Whether some key has a scope."""
        return any(scope in key.scopes for key in self.keys)

    def start(self) -> None:
        """Begin to watch the file, in a thread: a file system that hangs must stop neither requests nor the end."""
        if self._path is not None:
            threading.Thread(target=self._watch, name="keys-file", daemon=True).start()

    def stop(self) -> None:
        """Stop watching the file."""
        self._end.set()

    def _watch(self) -> None:
        while not self._end.wait(self._poll_seconds):
            self.refresh()

    def refresh(self) -> None:
        """Read the file again. If it is wrong, the keys stay as they are."""
        if self._path is None:
            return
        try:
            content = _read(self._path)
            settled, self._candidate = content == self._candidate, content
            if not settled:  # perhaps it is only half-written
                return
            if content != self._content:
                of_file, self._content = _parse(self._path, content), content
                self.keys = _merged(self._of_settings + of_file)
                log(LOGGER, logging.INFO, "keys loaded", file=str(self._path), keys=len(of_file))
            self._failure = None
        except KeysFileError as error:
            self._metrics.keys_file_errors.inc()
            if self._failure != str(error):
                self._failure = str(error)
                log(LOGGER, logging.ERROR, "keys file refused; the previous keys stay valid", error=str(error))


def _merged(entries: Iterable[ScopedKey]) -> tuple[ScopedKey, ...]:
    """One entry for each key. A key with several entries has all their scopes, and the name of the first."""
    merged: dict[str, ScopedKey] = {}
    for one in entries:
        first = merged.get(one.sha256, one)
        merged[one.sha256] = first._replace(scopes=first.scopes | one.scopes)
    return tuple(merged.values())


def _of_settings(settings: Settings) -> tuple[ScopedKey, ...]:
    return (
        *(scoped(key, "screen") for key in settings.api_keys),
        *(scoped(key, "feedback") for key in settings.feedback_keys),
        *(scoped(key, "admin") for key in settings.admin_keys),
    )


def _read(path: Path) -> bytes:
    """
    Raises:
        KeysFileError: the file is missing, unreadable or too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise KeysFileError(f"the keys file {path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise KeysFileError(f"the keys file {path} has more than {_MAX_BYTES} bytes; is it another file?")
    return content


def _parse(path: Path, content: bytes) -> tuple[ScopedKey, ...]:
    """
    Raises:
        KeysFileError: it has no key, or a line is wrong.
    """
    try:
        return keys_in(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise KeysFileError(f"the keys file {path} is not UTF-8 text") from None
    except ValueError as error:
        raise KeysFileError(f"the keys file {path} cannot be used: {error}") from None
