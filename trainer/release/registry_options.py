"""Options that choose the registry of `publish`, `promote`, `rollback` and `history`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from screening.checkpoint.registry import MODEL, Registry
from trainer.training.tracking.store import DATABASE_NAME, ENVIRONMENT, OFF, TrackingError, choose_store


def add_registry_options(parser: argparse.ArgumentParser, *, store: str, store_needed: bool = False) -> None:
    """Add `--store`, `--tracking-uri` and `--registry-model`.

    Args:
        store: help text of `--store`.
        store_needed: the command cannot run without `--store`.
    """
    parser.add_argument("--store", type=Path, required=store_needed, metavar="DIR", help=store)
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow store that holds the registry (default: the environment variable {ENVIRONMENT} if set, "
        f"else {DATABASE_NAME} in the parent directory of --store)",
    )
    parser.add_argument(
        "--registry-model", default=MODEL, metavar="NAME", help="name of the registered model (default: %(default)s)"
    )


def choose_registry(args: argparse.Namespace) -> Registry | None:
    """The registry that the options name; None if it is turned off.

    Raises:
        TrackingError: the URI is not one of an MLflow store, or neither options nor environment name a registry.
        RegistryError: MLflow does not accept the model's name.
    """
    if args.store is None and not args.tracking_uri and not os.environ.get(ENVIRONMENT):
        raise TrackingError(
            f"the registry is not known. Give --tracking-uri, set {ENVIRONMENT}, or give the --store of `publish`"
        )
    store = choose_store(args.tracking_uri, args.store or Path())
    return Registry(store.uri, args.registry_model) if store else None


def need_registry(args: argparse.Namespace) -> Registry:
    """The registry that the options name.

    Raises:
        TrackingError: as `choose_registry`, or the registry is turned off.
        RegistryError: as `choose_registry`.
    """
    registry = choose_registry(args)
    if registry is None:
        raise TrackingError(
            f"--tracking-uri {OFF}: this command needs a registry. Give the --tracking-uri that `publish` was given"
        )
    return registry
