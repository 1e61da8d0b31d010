"""Fixtures of all tests: the root of the checkout, and settings that make a run repeatable."""

from __future__ import annotations

import functools
import gc
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest
from hypothesis import HealthCheck, settings

from screening.runtime.cpus import usable_cpus

# A shell that starts the tests in the background has them ignore Ctrl-C, and every program they start with them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each of several test processes gets its share of the cores. With more threads than cores, torch's threads wait for
# each other: a small training takes twice as long.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // workers)))

# With Python's own thresholds, garbage collection takes a tenth of the tests' CPU time.
gc.set_threshold(20_000, 10, 10)

# Only a power failure loses data that was not flushed, and no test causes one. A flush takes milliseconds.
os.fsync = lambda _: None

GROUPS = ("vllm", "fork_server")
"""Markers of files that run in one worker."""

# Same examples in every run and on every machine; HYPOTHESIS_PROFILE=explore looks for new ones. No limits of time,
# because machines are shared.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", derandomize=True, **UNTIMED)
settings.register_profile("explore", max_examples=2000, **UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_checkpoint(repository: Path) -> Path:
    """The checkpoint that the repository ships."""
    return repository / "models" / "tiny"


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with empty tables. Creating one takes seconds, so the tests copy it."""
    from mlflow import MlflowClient
    from sqlalchemy import Engine, event

    event.listen(Engine, "connect", _write_without_flush)
    file = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}", registry_uri=f"sqlite:///{file}").search_registered_models()
    return file


def _write_without_flush(connection: Any, _: object) -> None:
    """Commit without a flush to the disk, as `os.fsync` above."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def registry_file(empty_registry: Path, tmp_path: Path) -> Path:
    """The database file of a registry for this test alone."""
    return Path(shutil.copy(empty_registry, tmp_path / "mlflow.db"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio, the loop of the service."""
    return "asyncio"


def _wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"it did not come to pass within {seconds:g} s"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Ask again and again until it is so: `wait_until(lambda: process.metric("screening_in_flight ") == 0)`."""
    return _wait_until


def pytest_configure(config: pytest.Config) -> None:
    """Let httpx trust one authority in place of certifi's 140, for the tests and the programs that they start.

    httpx reads the certificates for each client that it makes, which takes 25 ms of CPU time. The tests make thousands
    of clients and reach no other machine.
    """
    end = "-----END CERTIFICATE-----\n"
    first, _, _ = Path(certifi.where()).read_text(encoding="utf-8").partition(end)
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    (Path(folder.name) / "authority.pem").write_text(first + end, encoding="utf-8")
    os.environ["SSL_CERT_FILE"] = str(Path(folder.name) / "authority.pem")
    os.environ.pop("SSL_CERT_DIR", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the two large groups first, each for one worker; see `pytest_xdist_make_scheduler`."""
    items.sort(key=lambda item: GROUPS.index(_group(item.path)) if _group(item.path) else len(GROUPS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divide the tests for `pytest -n 2`: the tests of a file stay together, because they share module fixtures.

    Files with the real engine are one group: each engine takes a gigabyte and a core, so two of them at once would need
    more than the smallest machine has. Files with the fork server are another, so that one server imports the trainer
    for all of them. xdist's own groups (`xdist_group`) have no effect with pytest 9.2, which ignores the test ids that
    xdist changes.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return _group(config.rootpath / file) or file

    return ByFile(config, log)


_frozen_modules = 0


def pytest_runtest_setup() -> None:
    """Exclude imported modules from garbage collection, as vLLM does in its engine.

    torch and similar libraries create a million objects. Every full collection would visit them, for about a second.
    """
    global _frozen_modules
    if len(sys.modules) > _frozen_modules + 200:
        _frozen_modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the interpreter end as usual; libraries report frozen objects as leaks."""
    gc.unfreeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files whose tests are all deselected, so that `make test-fast` spends no time on their imports."""
    if collection_path.name.startswith("test_") and "not slow" in config.option.markexpr and _is_slow(collection_path):
        return True
    return None


def _is_slow(file: Path) -> bool:
    mark = re.search(r"^pytestmark = (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return mark is not None and re.search(r"mark\.(slow|vllm|exhaustive)\b", mark[1]) is not None


@functools.cache
def _group(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8")
    return next((marker for marker in GROUPS if f"mark.{marker}" in text), None)
