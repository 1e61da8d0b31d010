"""Where trainings are tracked: an MLflow store, by default one SQLite file beside the run directory."""

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
    """The address of the tracking store is none; name another, or `none`."""


@dataclass(frozen=True)
class Store:
    """An MLflow tracking store."""

    uri: str
    artifacts: str | None
    """Address under which a new experiment keeps files; None leaves it to the tracking server."""

    def __str__(self) -> str:
        """The address without its password."""
        return without_password(self.uri)


def add_tracking_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option `--tracking-uri` to a command that trains."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow store or server that gets a copy of the log; `{OFF}` for no copy "
        f"(default: the environment's {ENVIRONMENT}, else {DATABASE_NAME} beside OUT)",
    )


def choose_store(option: str | None, out: Path) -> Store | None:
    """The store that a training reports to; None for tracking turned off.

    Args:
        option: value of `--tracking-uri`.
        out: run directory.

    Raises:
        TrackingError: the address is none.
    """
    uri = option or os.environ.get(ENVIRONMENT) or f"sqlite:///{out.resolve().parent / DATABASE_NAME}"
    if uri == OFF:
        return None
    if "://" not in uri and uri != "databricks":
        raise TrackingError(
            f"the tracking address {uri!r} is none; give sqlite:////absolute/path.db, the http address of an MLflow "
            f"server, or `{OFF}` (option --tracking-uri, environment {ENVIRONMENT})"
        )
    # MLflow's own default for a database file is the directory that the command happens to start in.
    file = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else None
    return Store(uri, (Path(file).resolve().parent / ARTIFACTS_NAME).as_uri() if file else None)
