"""Environment variables for libraries: no downloads and no usage reports, private directories for their caches and
sockets, and what they need in a container whose user has no name or whose home directory is read-only."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

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
_LONGEST_TEMPORARY = 107 - len("/screening-12345678/00000000-0000-0000-0000-000000000000")
"""Maximum length of the path of the directory for temporary files, in bytes, for which sockets get a directory of their
own. The path of a socket has at most 107 bytes (unix(7)), and vLLM names each socket by a UUID."""


class NoTemporaryDirectory(Exception):
    """Neither TMPDIR nor the default directories for temporary files are writable."""


def prevent_reports_and_downloads(environment: MutableMapping[str, str], *, downloads: bool = False) -> None:
    """Set the variables of `QUIET_ENVIRONMENT` that have no value. Call this before the libraries are imported.

    Args:
        downloads: leave out those that prevent downloads.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        if not (downloads and name.endswith("_OFFLINE")):
            environment.setdefault(name, value)


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
    Other users of the machine cannot open the new directory.

    Yields:
        The directory, so that a guard (`screening.runtime.process_reaper`) can delete it if this process is killed.
        There is none if the variable is set already, or if the path of a socket in it would be too long.

    Raises:
        NoTemporaryDirectory: no directory for temporary files is writable.
    """
    try:
        keep = _SOCKETS in environment or len(os.fsencode(tempfile.gettempdir())) > _LONGEST_TEMPORARY
        directory = None if keep else Path(tempfile.mkdtemp(prefix="screening-"))
    except OSError as error:
        raise NoTemporaryDirectory(
            f"no directory for temporary files is writable ({error}). Mount one and set TMPDIR to it."
        ) from None
    if directory is None:
        yield []
        return
    environment[_SOCKETS] = str(directory)
    try:
        yield [directory]
    finally:
        environment.pop(_SOCKETS, None)
        shutil.rmtree(directory, ignore_errors=True)


def _can_be_written(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)
