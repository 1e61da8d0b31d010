"""Which registry a command speaks to: options of `publish`, `promote`, `rollback` and `history`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from screening.checkpoint.registry import MODEL, Registry
from trainer.training.tracking.store import DATABASE_NAME, ENVIRONMENT, OFF, TrackingError, choose_store


def add_registry_options(parser: argparse.ArgumentParser, *, store: str, store_needed: bool = False) -> None:
    """Add the options.

    Args:
        store: what to say about `--store`.
    """
    parser.add_argument("--store", type=Path, required=store_needed, metavar="DIR", help=store)
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow store that holds the registry (default: the environment's {ENVIRONMENT}, "
        f"else {DATABASE_NAME} beside --store)",
    )
    parser.add_argument(
        "--registry-model", default=MODEL, metavar="NAME", help="name of the registered model (default: %(default)s)"
    )


def choose_registry(args: argparse.Namespace) -> Registry | None:
    """The registry that the options name; None where it is turned off.

    Raises:
        TrackingError: the address is none, or nothing says where the registry is.
        RegistryError: the model's name is none.
    """
    if args.store is None and not args.tracking_uri and not os.environ.get(ENVIRONMENT):
        raise TrackingError(f"where is the registry? Give --tracking-uri, {ENVIRONMENT}, or the --store of `publish`")
    store = choose_store(args.tracking_uri, args.store or Path())
    return Registry(store.uri, args.registry_model) if store else None


def need_registry(args: argparse.Namespace) -> Registry:
    """The registry that the options name.

    Raises:
        TrackingError, RegistryError: as `choose_registry`, or the registry is turned off.
    """
    registry = choose_registry(args)
    if registry is None:
        raise TrackingError(f"`{OFF}` is no registry; give the --tracking-uri that `publish` was given")
    return registry
