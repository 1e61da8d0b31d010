"""Mends an environment that libraries cannot live with: a user without a name, a home that cannot be written."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

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
"""Variable → folder below the temporary home of the caches."""


class NoTemporaryDirectory(Exception):
    """Neither TMPDIR nor the usual places can be written."""


def name_the_user(environment: MutableMapping[str, str]) -> None:
    """Give a name to a user id without an entry in the passwd file, as OpenShift assigns them.

    `getpass.getuser`, which torch calls for the name of a cache directory, raises `KeyError` otherwise.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        for variable in ("USER", "LOGNAME"):
            environment.setdefault(variable, f"uid-{os.getuid()}")


def house_the_caches(environment: MutableMapping[str, str]) -> Path | None:
    """Where the home directory cannot be written, send the libraries' caches to a temporary directory.

    HOME itself stays: it may hold credentials. Variables that are set already stay as well.

    Returns:
        The temporary directory, to be deleted at the end; None where the home can be used.

    Raises:
        NoTemporaryDirectory: there is no place for temporary files either.
    """
    if _can_be_written(Path("~").expanduser() if "HOME" not in environment else Path(environment["HOME"])):
        return None
    try:
        home = Path(tempfile.mkdtemp(prefix="screening-caches-"))
    except OSError as error:
        raise NoTemporaryDirectory(
            f"the home directory cannot be written, and no temporary directory either ({error}). "
            "Mount a directory that can be written and name it in TMPDIR."
        ) from None
    for variable, folder in _CACHES.items():
        environment.setdefault(variable, str(home / folder))
    return home


def _can_be_written(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)
