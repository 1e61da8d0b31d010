"""Environment variables for libraries: no downloads and no usage reports, private directories for their caches and
sockets, and what they need in a container whose user has no name or whose home directory is read-only."""

from __future__ import annotations

import locale
import multiprocessing.util
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from screening.errors import UserError

QUIET_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # not each table that it creates
}
"""Environment variables to set before torch, transformers, trl, vllm or mlflow is imported. They prevent downloads,
usage reports and log messages that no user needs."""

_CACHES = {
    "XDG_CACHE_HOME": "cache",  # vLLM, Hugging Face, flashinfer and others
    "XDG_CONFIG_HOME": "config",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "CUDA_CACHE_PATH": "cuda",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "NUMBA_CACHE_DIR": "numba",
    "MPLCONFIGDIR": "matplotlib",
}
"""Folder in the temporary cache directory for each variable."""

_SOCKETS = "VLLM_RPC_BASE_PATH"
"""Variable that names the directory in which vLLM makes its Unix sockets."""
_PREFIX = "screening-"
_LONGEST_TEMPORARY = 107 - len(f"/{_PREFIX}12345678/00000000-0000-0000-0000-000000000000")
"""Maximum length of the path of a directory for temporary files, in bytes, in which a directory for sockets fits. The
path of a socket has at most 107 bytes (unix(7)), and vLLM names each socket by a UUID."""
_SHORT_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - `mkdtemp` makes directories that only this user may open
"""Directories for sockets where the path of TMPDIR is longer, as in the job directories of clusters."""


class NoTemporaryDirectory(UserError):
    """Neither TMPDIR nor the default directories for temporary files are writable, or the path of TMPDIR is too long
    for sockets."""


def prevent_reports_and_downloads(environment: MutableMapping[str, str], *, downloads: bool = False) -> None:
    """Set the variables of `QUIET_ENVIRONMENT` that have no value. Call this before the libraries are imported.

    Args:
        downloads: leave out those that prevent downloads.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        if not (downloads and name.endswith("_OFFLINE")):
            environment.setdefault(name, value)


def use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode if the locale has another encoding, such as GBK or ISO-8859-1.

    Libraries read their own files in the locale's encoding: in an ASCII locale, torch could not be imported, and help
    texts could not be printed. The process keeps its id. Only launchers call this, before they do anything else.
    """
    if locale.getpreferredencoding(False).lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same program


def name_the_user(environment: MutableMapping[str, str]) -> None:
    """Set a user name if the user id has no entry in the passwd file, which is usual on OpenShift.

    Otherwise `getpass.getuser`, which torch calls for the name of a cache directory, would raise `KeyError`.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        for variable in ("USER", "LOGNAME"):
            environment.setdefault(variable, f"uid-{os.getuid()}")


def house_the_caches(environment: MutableMapping[str, str]) -> Path | None:
    """Redirect the caches of libraries to a temporary directory if the home directory is not writable.

    HOME itself does not change, because it may contain credentials. Variables that are already set keep their values.

    Returns:
        The temporary directory, which the caller must delete; None if the home directory is writable.

    Raises:
        NoTemporaryDirectory: no directory for temporary files is writable either.
    """
    if _can_be_written(Path("~").expanduser() if "HOME" not in environment else Path(environment["HOME"])):
        return None
    try:
        home = Path(tempfile.mkdtemp(prefix="screening-caches-"))
    except OSError as error:
        raise NoTemporaryDirectory(
            f"neither the home directory nor a temporary directory is writable ({error}). "
            "Mount a writable directory and set TMPDIR to it."
        ) from None
    for variable, folder in _CACHES.items():
        environment.setdefault(variable, str(home / folder))
    return home


@contextmanager
def private_sockets(environment: MutableMapping[str, str]) -> Iterator[list[Path]]:
    """Have vLLM make its sockets in a new directory, which is deleted after the block.

    By default vLLM makes them among the other temporary files and never deletes them, not even after an orderly end.
    Other users of the machine cannot open the new directory. It is not in TMPDIR if the path of a socket there would be
    too long.

    Yields:
        The directory, so that a guard (`screening.runtime.process_reaper`) can delete it if this process is killed.
        There is none if the variable is set already.

    Raises:
        NoTemporaryDirectory: no directory for temporary files is writable, or only one with a path that is too long.
    """
    if _SOCKETS in environment:
        yield []
        return
    try:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_place_for_sockets()))
    except OSError as error:
        raise NoTemporaryDirectory(
            f"no directory for temporary files is writable ({error}). Mount one and set TMPDIR to it."
        ) from None
    environment[_SOCKETS] = str(directory)
    try:
        yield [directory]
    finally:
        environment.pop(_SOCKETS, None)
        shutil.rmtree(directory, ignore_errors=True)


def shorten_socket_paths() -> None:
    """Have Python's multiprocessing make its sockets outside TMPDIR if their paths would be too long there.

    Call this before PyTorch's data loaders start processes. Otherwise no batch arrives, and a training waits forever.

    Raises:
        NoTemporaryDirectory, OSError: no directory for temporary files can be used.
    """
    chosen, tempfile.tempdir = tempfile.tempdir, _place_for_sockets()
    try:
        multiprocessing.util.get_temp_dir()  # this process and its children keep the directory that it makes
    finally:
        tempfile.tempdir = chosen


def _place_for_sockets() -> str:
    chosen = tempfile.gettempdir()
    for place in (chosen, *_SHORT_TEMPORARY):
        if len(os.fsencode(place)) <= _LONGEST_TEMPORARY and _can_be_written(Path(place)):
            return place
    raise NoTemporaryDirectory(
        f"sockets do not fit into {chosen}, and neither {' nor '.join(_SHORT_TEMPORARY)} is writable. Set TMPDIR to a "
        f"writable directory with a path of at most {_LONGEST_TEMPORARY} bytes."
    )


def _can_be_written(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)
