"""Stores pictures by the SHA-256 of their bytes, in a local directory or an object store (S3, Google Cloud Storage,
Azure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from screening.runtime.argument_types import is_address
from service.decisions.errors import PictureStoreError, first_line

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3://", "gs://", "az://")
_FORMS = "s3://BUCKET/PREFIX, gs://… or az://…"
_PATH = re.compile("[0-9a-f]{2}/(?P<sha256>[0-9a-f]{64})")
_CHUNK = 500
"""Number of pictures that are listed at a time."""


class PictureStore:
    """Writes and reads whole pictures. Safe to use from several threads.

    A picture is written under a temporary name and renamed (or by one request of the object store), so that a killed
    process never leaves half a picture.
    """

    def __init__(self, location: str) -> None:
        """
        Args:
            location: a directory, or `s3://BUCKET/PREFIX`, `gs://…`, `az://…`. Credentials and endpoints come from the
                environment, as the providers' own tools read them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …).

        Raises:
            PictureStoreError: the store cannot be opened.
        """
        self.location = location
        if is_address(location) and not location.startswith(SCHEMES):
            raise PictureStoreError(f"the picture store {location} is not supported: give a directory, or {_FORMS}")
        self._directory: Path | None = None
        try:
            if location.startswith(SCHEMES):
                # The endpoint's address decides whether http is used. Few retries: the writer tries again later.
                client: ClientConfig = {"timeout": "20s", "connect_timeout": "5s", "allow_http": True}
                retries: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
                self._store = from_url(location, client_options=client, retry_config=retries)
            else:
                self._directory = Path(location).absolute()
                self._directory.mkdir(parents=True, exist_ok=True)
                self._store = LocalStore(self._directory)
        except (BaseError, OSError, ValueError) as error:
            raise PictureStoreError(f"the picture store {location} cannot be opened: {first_line(error)}") from error

    def put(self, sha256: str, data: bytes) -> None:
        """Write one picture; writing it again changes nothing.

        Raises:
            PictureStoreError: the picture was not written.
        """
        try:
            # In one request: a killed upload in parts would leave parts in the bucket that no listing shows.
            obstore.put(self._store, _path(sha256), data, use_multipart=False)
        except (BaseError, OSError) as error:
            raise PictureStoreError(f"{sha256} was not written to {self.location}: {first_line(error)}") from error

    def get(self, sha256: str) -> bytes | None:
        """The bytes of a picture; None if it is not in the store.

        Raises:
            PictureStoreError: the store cannot be read.
        """
        try:
            return bytes(obstore.get(self._store, _path(sha256)).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise PictureStoreError(f"{sha256} cannot be read from {self.location}: {first_line(error)}") from error

    def delete(self, addresses: Sequence[str]) -> None:
        """Delete pictures, with as few requests as the store allows; deleting them again changes nothing.

        Raises:
            PictureStoreError: some may still be there.
        """
        try:
            self._delete([_path(sha256) for sha256 in addresses])
        except (BaseError, OSError) as error:
            raise PictureStoreError(f"pictures were not deleted from {self.location}: {first_line(error)}") from error

    def older_than(self, moment: datetime) -> Iterator[dict[str, int]]:
        """Sizes in bytes by address of the pictures that were last written before a moment, some hundred at a time.

        Raises:
            PictureStoreError: the store cannot be read.
        """
        try:
            for chunk in obstore.list(self._store, chunk_size=_CHUNK):
                found = [(_PATH.fullmatch(one["path"]), one) for one in chunk if one["last_modified"] < moment]
                yield {match["sha256"]: one["size"] for match, one in found if match is not None}
        except (BaseError, OSError) as error:
            raise PictureStoreError(f"{self.location} cannot be listed: {first_line(error)}") from error

    def delete_unfinished(self, moment: datetime) -> None:
        """Delete the temporary files of writers that were killed before a moment. Object stores have none.

        Raises:
            PictureStoreError: one cannot be deleted.
        """
        if self._directory is None:
            return
        try:
            for file in self._directory.glob("[0-9a-f][0-9a-f]/*#*"):
                with suppress(FileNotFoundError):  # another service may have just renamed or deleted it
                    if file.stat().st_mtime < moment.timestamp():
                        file.unlink()
        except OSError as error:
            raise PictureStoreError(f"unfinished files were not deleted from {self.location}: {error}") from error

    def _delete(self, paths: Sequence[str]) -> None:
        try:
            obstore.delete(self._store, paths)
        except FileNotFoundError:  # a directory stops at the first picture that is missing
            for path in paths:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, path)


def _path(sha256: str) -> str:
    """Path of a picture, on two levels: directories with a million entries are slow on many file systems."""
    return f"{sha256[:2]}/{sha256}"
