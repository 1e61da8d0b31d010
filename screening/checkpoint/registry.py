"""The model registry: which checkpoints were published, and which one a fleet serves.

MLflow's registry, for what it is good at: numbered versions and aliases that move in one step. A version is a directory
of a store (`trainer publish`); nothing is copied into MLflow. The trainer writes, services read.

MLflow is imported when it is first needed: it takes a second and a hundred megabytes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from screening.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "screening"
"""Name of the registered model, unless told otherwise."""
CANDIDATE = "candidate"
"""Alias of the version that was published last."""
PRODUCTION = "production"
"""Alias of the version that services take up."""

DIGEST_TAG = "digest"
"""Tag that holds the digest of a version's manifest; every version has it."""
LEDGER_SUFFIX = ".history"
"""A second registered model, without versions, has this after the first one's name. It holds a copy of the notes, which
survives when a person deletes the first one or its tags."""
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What a registered model may be called: a name that needs no quoting in MLflow's queries."""

_SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow would report on its use to its makers
    # Its own patience with a server that is down is four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # A connection that is kept would go on reading a database file that was replaced.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
"""Defaults for MLflow; what is set in the environment wins."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered checkpoint. Number, digest and directory never change."""

    number: int
    digest: str
    directory: Path
    """As the publisher named it; a service may have the store mounted elsewhere."""
    tags: Mapping[str, str]


class Registry:
    """One registered model in one MLflow store. All methods ask the store: call them in a thread."""

    def __init__(self, uri: str, model: str = MODEL) -> None:
        """
        Args:
            uri: MLflow's tracking URI: `sqlite:////absolute/path.db`, `postgresql+psycopg2://…`, `http://…`.

        Raises:
            RegistryError: the name is none.
        """
        if not re.match(MODEL_NAME, model):
            raise RegistryError(f"{model!r} is no name of a registered model: letters, digits, '.', '_' and '-' only")
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
        """Make a directory a version; a digest that is registered keeps the version it has, as it is.

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
            # Of two publishers at the same moment each sees both, and the lower number stays.
            if first.number != int(made.version):
                client.delete_model_version(self.model, str(made.version))
            return first

    def version(self, number: int) -> Version | None:
        """The version of a number.

        Raises:
            RegistryError: the registry does not answer, or `publish` did not make the version.
        """
        with self._asking() as client, _none_if_absent() as found:
            found.append(self._read(client.get_model_version(self.model, str(number))))
        return found[0] if found else None

    def resolve(self, alias: str) -> Version | None:
        """The version that an alias names; None where there is no such alias, or nothing is registered.

        Raises:
            RegistryError: the registry does not answer, or the alias names a version that is gone or not `publish`'s.
        """
        number = self.named(alias)
        version = None if number is None else self.version(number)
        if number is not None and version is None:
            raise RegistryError(f"registry {self}: the alias '{alias}' names version {number}, which does not exist")
        return version

    def named(self, alias: str) -> int | None:
        """The number that an alias names, whatever its version is; None where there is no such alias.

        Raises:
            RegistryError: the registry does not answer.
        """
        with self._asking() as client, _none_if_absent() as found:
            found.append(client.get_registered_model(self.model).aliases.get(alias))
        return int(found[0]) if found and found[0] is not None else None

    def point(self, alias: str, number: int) -> None:
        """Let an alias name a version: readers see the old one or the new one.

        Raises:
            RegistryError: the registry does not answer, or there is no such version.
        """
        with self._asking() as client:
            client.set_registered_model_alias(self.model, alias, str(number))

    def notes(self) -> dict[str, str]:
        """Everything noted on the model, also before it was deleted and registered again; empty where nothing was.

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
        """Note something on the model and in its ledger, in place of what is noted under the same key.

        Raises:
            RegistryError: the registry does not answer.
        """
        with self._asking() as client:
            self.create_model(client, self._ledger)
            for name in (self._ledger, self.model):
                client.set_registered_model_tag(name, key, value)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off others who would change the same SQLite file in such a block.

        On a database server nobody is held off: MLflow has no lock to offer.

        Raises:
            RegistryError: the lock, a file beside the database, cannot be written.
        """
        if self._file is None:
            yield
            return
        try:
            handle = self._file.with_name(f"{self._file.name}.lock").open("w")
        except OSError as error:
            raise RegistryError(f"registry {self}: {error.filename} cannot be written ({error.strerror})") from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
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
        """A client; whatever goes wrong with it is a RegistryError."""
        try:
            if self.missing and not create:
                # MLflow would make an empty database of a path with a typing error.
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
        """`file:///…`; an MLflow server refuses that, as it could be made to read its own disk by it."""
        path = directory.resolve()
        return f"checkpoint:{quote(str(path))}" if self.uri.startswith("http") else path.as_uri()


def without_password(text: str) -> str:
    """Hide the passwords of addresses in a text, also those with an unescaped `/` or `@`, which databases take."""
    text = re.sub(r"(?<=://)([^/@:\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?<=[?&]password=)[^&\s]*", "***", text)


@contextmanager
def _none_if_absent() -> Iterator[list[Any]]:
    """A list to put what is found in; it stays empty where MLflow says that there is no such thing."""
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

    for library in ("mlflow", "alembic"):  # they tell of every table that they make
        logging.getLogger(library).setLevel(logging.CRITICAL)  # its errors are raised as well
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
