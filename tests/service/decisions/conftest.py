"""Real databases (SQLite, and a PostgreSQL server of the tests' own) and a real S3 server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.decisions import schema_version
from service.decisions.database import Database
from tests.ports import free_port

FEEDBACK_KEY, ADMIN_KEY = "feedback-key", "admin-key"
"""Keys that the tests use; the services get their hashes."""
WRITING = (
    "Trop\u202fsombre\u00a0!\r\n\u8272\u304c\u3000\u9055\u3046\n\U0001f469\u200d\U0001f527 wa\u00adter\t\U0001fae9"
)
"""A comment in ordinary writing: spaces of French and Japanese, joiners, lines, and a new emoji."""


def _binaries() -> Path | None:
    """The newest PostgreSQL server of Debian's packages."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


EMPTY, PREPARED = "template1", "prepared"
"""Databases of the PostgreSQL server that a new database can be a copy of. The second one has the tables of today."""


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """A server without a network. Each call creates a database with the tables of today and returns its address."""
    import psycopg

    binaries = _binaries()
    if binaries is None:
        assert not os.environ.get("CI"), "PostgreSQL is missing: .ci/run installs Debian's package postgresql"
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    folder = Path(f"/tmp/screening-pg-{uuid.uuid4().hex[:8]}")  # a socket's path has at most 107 bytes
    folder.mkdir()
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "nobody", "nogroup")
        as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    data = folder / "data"
    subprocess.run(
        [*as_user, binaries / "initdb", "-D", data, "-U", "tests", "-A", "trust", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with (folder / "log").open("wb") as log:
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
        server = subprocess.Popen([*as_user, binaries / "postgres", "-D", data, *options], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                administrator = psycopg.connect(host=str(folder), user="tests", dbname="postgres", autocommit=True)
                break
            except psycopg.OperationalError:
                assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.05)

        def make(template: str = PREPARED, name: str | None = None) -> str:
            name = name or f"d{uuid.uuid4().hex}"
            administrator.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            return f"postgresql://tests@/{name}?host={folder}"

        prepare(make(EMPTY, PREPARED))
        yield make
        administrator.close()
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for connections that tests left open
        server.wait(30)
        shutil.rmtree(folder)


def prepare(url: str) -> None:
    """Make the tables of today. This takes longer than most tests, so that the tests copy the database."""
    made = Database(url)
    schema_version.prepare(made)
    made.close()


@pytest.fixture(scope="session")
def prepared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the tables of today."""
    file = tmp_path_factory.mktemp("prepared") / "decisions.db"
    prepare(f"sqlite:///{file}")
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("postgresql")(EMPTY)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, prepared_file: Path, tmp_path: Path) -> str:
    """The address of a database with the tables of today."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(prepared_file, tmp_path / 'decisions.db')}"
    return request.getfixturevalue("postgresql")()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with the tables of today."""
    one = Database(database_url)
    schema_version.prepare(one)  # a test module may have its own `database_url`, without tables
    yield one
    one.close()


def sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def kept(database_url: str, tmp_path: Path) -> dict[str, Any]:
    """Settings of a service that keeps its decisions."""
    return {
        "decisions": database_url,
        "pictures": str(tmp_path / "pictures"),
        "feedback_keys": f"shop:{sha256(FEEDBACK_KEY)}",
        "admin_keys": f"lead:{sha256(ADMIN_KEY)}",
    }


@pytest.fixture
def s3_server() -> Iterator[Any]:
    """An S3 server. A test can stop it and start another one on the same port."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, s3_server: Any) -> str:
    """A bucket; the server's address is in the environment, as an operator gives it."""
    import boto3

    host, port = s3_server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    bucket = f"pictures-{uuid.uuid4().hex[:8]}"  # moto's servers in one process share their buckets
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/screening"
