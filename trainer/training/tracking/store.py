"""Chooses the MLflow store of a training, by default an SQLite file in the run directory's parent."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from screening.checkpoint.registry import without_password
from screening.errors import UserError

ENVIRONMENT = "MLFLOW_TRACKING_URI"
OFF = "none"
DATABASE_NAME = "mlflow.db"
ARTIFACTS_NAME = "mlartifacts"


class TrackingError(UserError, ValueError):
    """The URI of the tracking store is wrong or missing; the message says what to give."""


@dataclass(frozen=True)
class Store:
    """An MLflow tracking store."""

    uri: str
    artifacts: str | None
    """URI for the files of a new experiment; None lets the tracking server choose."""

    def __str__(self) -> str:
        """The URI without its password."""
        return without_password(self.uri)


def add_tracking_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option `--tracking-uri` to a command that trains."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow store or server that gets a copy of the log; `{OFF}` for no copy "
        f"(default: the environment variable {ENVIRONMENT} if set, else {DATABASE_NAME} in the parent of --out)",
    )


def choose_store(option: str | None, out: Path) -> Store | None:
    """Choose the store of a training; None if tracking is turned off.

    Args:
        option: value of `--tracking-uri`.
        out: run directory.

    Raises:
        TrackingError: the URI is not one of an MLflow store.
    """
    uri = option or os.environ.get(ENVIRONMENT) or f"sqlite:///{out.resolve().parent / DATABASE_NAME}"
    if uri == OFF:
        return None
    if "://" not in uri and uri != "databricks":
        raise TrackingError(
            f"{uri!r} is not the URI of an MLflow store. Give sqlite:////absolute/path.db, the http address of an "
            f"MLflow server, or `{OFF}` (option --tracking-uri or environment variable {ENVIRONMENT})"
        )
    # For a database file, MLflow's own default is the working directory.
    file = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else None
    return Store(uri, (Path(file).resolve().parent / ARTIFACTS_NAME).as_uri() if file else None)
