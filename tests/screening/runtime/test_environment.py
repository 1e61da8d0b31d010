"""A user without a name, and a home that cannot be written."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from screening.runtime.environment import NoTemporaryDirectory, house_the_caches, name_the_user, private_sockets

NO_SUCH_USER = 54_321


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a user id without an entry in the passwd file."""
    monkeypatch.setattr("os.getuid", lambda: NO_SUCH_USER)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("nameless")
def test_an_unknown_user_id_gets_a_name() -> None:
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    name_the_user(os.environ)
    assert getpass.getuser() == f"uid-{NO_SUCH_USER}"


@pytest.mark.usefixtures("nameless")
def test_a_name_that_the_operator_gave_stays(monkeypatch) -> None:
    monkeypatch.setenv("USER", "screening")
    environment = dict(os.environ)
    name_the_user(environment)
    assert environment["USER"] == "screening"


def test_a_known_user_is_left_alone() -> None:
    environment: dict[str, str] = {}
    name_the_user(environment)
    assert environment == {}


@pytest.mark.parametrize("home", ["/nonexistent", "/proc/1", "/dev/null"])
def test_caches_leave_a_home_that_cannot_be_written(home) -> None:
    environment = {"HOME": home, "TRITON_CACHE_DIR": "/operators/choice"}
    directory = house_the_caches(environment)
    assert directory is not None and os.access(directory, os.W_OK)
    assert environment["HOME"] == home  # credentials may lie there
    assert environment["TRITON_CACHE_DIR"] == "/operators/choice"
    assert Path(environment["XDG_CACHE_HOME"]).is_relative_to(directory)
    directory.rmdir()


def test_a_home_that_can_be_written_is_used(tmp_path) -> None:
    environment = {"HOME": str(tmp_path)}
    assert house_the_caches(environment) is None and environment == {"HOME": str(tmp_path)}


def test_without_any_directory_to_write_the_error_says_what_to_mount(monkeypatch) -> None:
    def refuse(**_: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(NoTemporaryDirectory, match="TMPDIR"):
        house_the_caches({"HOME": "/nonexistent"})


def test_sockets_get_a_private_directory_for_the_time_of_the_block() -> None:
    environment: dict[str, str] = {}
    with private_sockets(environment) as (directory,):
        assert environment == {"VLLM_RPC_BASE_PATH": str(directory)}
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "left behind").touch()
    assert environment == {} and not directory.exists()


def test_a_directory_for_sockets_that_the_operator_chose_stays(tmp_path) -> None:
    environment = {"VLLM_RPC_BASE_PATH": str(tmp_path)}
    with private_sockets(environment) as directories:
        assert directories == []
    assert environment == {"VLLM_RPC_BASE_PATH": str(tmp_path)} and tmp_path.exists()


@pytest.fixture
def long_temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Path]]:
    """Make a directory for temporary files with a path of that length."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:

        def make(length: int) -> Path:
            long = Path(folder) / ("x" * (length - len(folder) - 1))
            long.mkdir()
            monkeypatch.setattr(tempfile, "tempdir", str(long))
            return long

        yield make


@pytest.mark.parametrize(("length", "inside"), [(51, True), (52, False), (200, False)])
def test_the_path_of_a_socket_fits_into_107_bytes(length, inside, long_temporary) -> None:
    long = long_temporary(length)
    with private_sockets({}) as (directory,), socket.socket(socket.AF_UNIX) as one:
        assert (directory.parent == long) is inside
        one.bind(str(directory / str(uuid4())))
    assert not directory.exists()


def test_a_path_that_is_too_long_for_sockets_is_named_if_no_shorter_one_is_writable(long_temporary, monkeypatch):
    long = long_temporary(52)
    monkeypatch.setattr("screening.runtime.environment._SHORT_TEMPORARY", ("/proc/no-directory",))
    with pytest.raises(NoTemporaryDirectory, match=f"{long}.*Set TMPDIR to .* at most 51 bytes"), private_sockets({}):
        pass


@pytest.mark.slow
def test_a_torch_cache_directory_is_found_for_an_unknown_user_id(tmp_path) -> None:
    code = (
        "import os, sys; os.getuid = lambda: 54321\n"
        "from screening.runtime.environment import *; name_the_user(os.environ); house_the_caches(os.environ)\n"
        "from torch._inductor.runtime.cache_dir_utils import default_cache_dir; print(default_cache_dir())"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("USER", "LOGNAME", "USERNAME")}
    environment |= {"HOME": "/nonexistent", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
