"""The model registry: which checkpoints were published, and which one a fleet serves.

It uses MLflow's registry for numbered versions, and for aliases that move atomically. A version is a directory of a
checkpoint store (`trainer publish`); nothing is copied into MLflow. The trainer writes the registry, and services read
it.

MLflow is imported on first use, because the import takes a second and 100 MB.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from screening.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "screening"
"""Default name of the registered model."""
CANDIDATE = "candidate"
"""Alias of the version that was published last."""
PRODUCTION = "production"
"""Alias of the version that services serve."""

DIGEST_TAG = "digest"
"""Tag with the digest of a version's checkpoint. Every version has it."""
LEDGER_SUFFIX = ".history"
"""Suffix of the name of a second registered model, which has no versions. It holds a copy of the notes, which survives
when a person deletes the first model or its tags."""
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Pattern of a registered model's name. Such a name needs no quoting in MLflow's queries."""

_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # By default, MLflow reports its use to its makers.
    # By default MLflow waits four minutes for a server that is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # A pooled connection would go on reading a database file that was replaced.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
"""Default environment variables for MLflow. Variables that are set take precedence."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered checkpoint. Its number, digest and directory never change."""

    number: int
    digest: str
    directory: Path
    """Path on the publisher's machine. Another machine may have the store mounted elsewhere: see `in_store`."""
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of the directory in its store. It is the same wherever the store is mounted."""
        return self.directory.name

    def in_store(self, store: Path | None) -> Version:
        """The same version, with its directory on a machine that has the store mounted at `store`.

        Args:
            store: None keeps the publisher's path.
        """
        return self if store is None else replace(self, directory=store.absolute() / self.name)


class Registry:
    """One registered model in one MLflow store. All methods access the store: call them in a thread."""

    def __init__(self, uri: str, model: str = MODEL) -> None:
        """
        Args:
            uri: MLflow's tracking URI: `sqlite:////absolute/path.db`, `postgresql+psycopg2://…`, `http://…`.

        Raises:
            RegistryError: the model's name is not valid.
        """
        if not re.match(MODEL_NAME, model):
            raise RegistryError(
                f"The registered model's name {model!r} is not valid. Use letters, digits, '.', '_' and '-' only"
            )
        self.uri = uri
        self.model = model
        self._ledger = model + LEDGER_SUFFIX
        self._file = Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None

    def __str__(self) -> str:
        """Model and address, without a password."""
        return f"{self.model} in {without_password(self.uri)}"

    @property
    def missing(self) -> bool:
        """Whether the registry is an SQLite file that does not exist: nothing was ever registered."""
        return self._file is not None and not self._file.exists()

    def register(self, directory: Path, digest: str, tags: Mapping[str, str]) -> Version:
        """Register a directory as a version. If its digest is registered already, return that version unchanged.

        Raises:
            RegistryError: the registry does not answer.
        """
        with self._asking(create=True) as client:
            self.create_model(client, self.model)
            known = self._versions_of(client, digest)
            if known:
                return known[0]
            made = client.create_model_version(self.model, self._source(directory), tags={**tags, DIGEST_TAG: digest})
            first = self._versions_of(client, digest)[0]
            # Two simultaneous publishers each see both versions, and the lower number stays.
            if first.number != int(made.version):
                client.delete_model_version(self.model, str(made.version))
            return first

    def version(self, number: int) -> Version | None:
        """Return the version with this number; None if there is none.

        Raises:
            RegistryError: the registry does not answer, or `trainer publish` did not register the version.
        """
        with self._asking() as client, _none_if_absent() as found:
            found.append(self._read(client.get_model_version(self.model, str(number))))
        return found[0] if found else None

    def resolve(self, alias: str) -> Version | None:
        """Return the version that an alias names; None if there is no such alias, or nothing is registered.

        Raises:
            RegistryError: the registry does not answer, or the alias names a version that was deleted, or that
                `trainer publish` did not register.
        """
        number = self.named(alias)
        version = None if number is None else self.version(number)
        if number is not None and version is None:
            raise RegistryError(f"registry {self}: the alias '{alias}' names version {number}, which does not exist")
        return version

    def named(self, alias: str) -> int | None:
        """Return the number of the version that an alias names; None if there is no such alias.

        Raises:
            RegistryError: the registry does not answer.
        """
        with self._asking() as client, _none_if_absent() as found:
            found.append(client.get_registered_model(self.model).aliases.get(alias))
        return int(found[0]) if found and found[0] is not None else None

    def point(self, alias: str, number: int) -> None:
        """Point an alias at a version, atomically for readers.

        Raises:
            RegistryError: the registry does not answer, or there is no such version.
        """
        with self._asking() as client:
            client.set_registered_model_alias(self.model, alias, str(number))

    def notes(self) -> dict[str, str]:
        """Return all notes on the model, also those from before it was deleted and registered again.

        Raises:
            RegistryError: the registry does not answer.
        """
        found: list[Mapping[str, str]] = []
        with self._asking() as client:
            for name in (self._ledger, self.model):
                with _none_if_absent():
                    found.append(client.get_registered_model(name).tags)
        return {key: value for tags in found for key, value in tags.items()}

    def note(self, key: str, value: str) -> None:
        """Write a note on the model and its ledger, in place of an earlier note with the same key.

        Raises:
            RegistryError: the registry does not answer.
        """
        with self._asking() as client:
            self.create_model(client, self._ledger)
            for name in (self._ledger, self.model):
                client.set_registered_model_tag(name, key, value)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the registry against other processes that change it in such a block.

        This works for a SQLite file only, by a lock file beside it. MLflow offers no lock on a database server.

        Raises:
            RegistryError: the lock file cannot be written.
        """
        if self._file is None:
            yield
            return
        try:
            lock = FileLock(self._file.with_name(f"{self._file.name}.lock")).acquire()
        except OSError as error:
            raise RegistryError(f"registry {self}: {error.filename} cannot be written ({error.strerror})") from error
        with lock:
            yield

    @contextmanager
    def client(self, *, create: bool = False) -> Iterator[MlflowClient]:
        """MLflow's client, for what this class has no method for.

        Args:
            create: whether an SQLite file that does not exist may be made.

        Raises:
            RegistryError: whatever goes wrong in the block.
        """
        with self._asking(create=create) as client:
            yield client

    @contextmanager
    def _asking(self, *, create: bool = False) -> Iterator[MlflowClient]:
        """Yield a client. Every exception in the block becomes a RegistryError."""
        try:
            if self.missing and not create:
                # MLflow would create an empty database for a mistyped path.
                raise RegistryError("there is no such file")
            yield _client(self.uri)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise RegistryError(f"registry {self}: {without_password(lines[0])[:300]}") from error

    def create_model(self, client: MlflowClient, name: str) -> None:
        """Register a model's name, unless it is registered already."""
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions_of(self, client: MlflowClient, digest: str) -> list[Version]:
        found = client.search_model_versions(f"name = '{self.model}' and tag.{DIGEST_TAG} = '{digest}'")
        return sorted(map(self._read, found), key=lambda version: version.number)

    def _read(self, version: Any) -> Version:
        tags = dict(version.tags)
        if DIGEST_TAG not in tags or not version.source:
            raise RegistryError(f"version {version.version} was not registered by `python -m trainer publish`")
        directory = Path(unquote(urlsplit(version.source).path))
        return Version(int(version.version), tags[DIGEST_TAG], directory, tags)

    def _source(self, directory: Path) -> str:
        """Return a `file:///…` address, or `checkpoint:…` for an MLflow server, which refuses paths on its own disk."""
        path = directory.resolve()
        return f"checkpoint:{quote(str(path))}" if self.uri.startswith("http") else path.as_uri()


def without_password(text: str) -> str:
    """Hide the passwords of addresses in a text, also those with an unescaped `/` or `@`, which databases accept."""
    text = re.sub(r"(?<=://)([^/@:\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?<=[?&]password=)[^&\s]*", "***", text)


@contextmanager
def _none_if_absent() -> Iterator[list[Any]]:
    """Yield a list for what the block finds. It stays empty if MLflow says that the object does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        yield []
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _client(uri: str) -> MlflowClient:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    for library in ("mlflow", "alembic"):  # they log every table that they create
        logging.getLogger(library).setLevel(logging.CRITICAL)  # their errors are raised as well
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
