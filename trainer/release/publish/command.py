"""`python -m trainer publish`: prove a checkpoint in the real engine, put a whole copy into a store and register it."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.release.registry_options import add_registry_options, choose_registry
from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from screening.checkpoint.manifest import Manifest
    from screening.checkpoint.probes import Probes

_ONE_KIND_ONLY = "its probes lack float32's numbers, so only machines like the recording one will serve it ({machine})"
UNREGISTERED = 3
"""Exit status when the checkpoint is in the store and the registry did not answer; Python's own, of a crash, is 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser, "--checkpoint", "with its screening.json")
    parser.add_argument(
        "--again",
        action="store_true",
        help="replace what the store holds under that name: a damaged copy, or probes of another version of vLLM",
    )
    add_registry_options(
        parser,
        store="where running services find checkpoints; `--tracking-uri none` registers nothing",
        store_needed=True,
    )
    parser.epilog = (
        f"Exit status: 0 published; 2 not published, the message says why; {UNREGISTERED} the copy is in the store and "
        "the registry did not answer, the same command registers it."
    )


def run(args: argparse.Namespace) -> int:
    from screening.checkpoint.manifest import read_manifest
    from screening.errors import RegistryError
    from trainer.evaluation.evaluate.by_checkpoint import engine_ends_on_sigterm
    from trainer.release.publish.register import register

    registry = choose_registry(args)
    with engine_ends_on_sigterm():
        directory = publish(args.checkpoint, args.store, again=args.again)
    print(f"published: {directory}")
    if registry is None:
        return 0
    try:
        version = register(registry, directory, read_manifest(directory))
    except RegistryError as error:
        print(f"error: published but not registered: {error}; the same command registers it", file=sys.stderr)
        return UNREGISTERED
    print(f"registered: version {version.number} of {registry}, candidate")
    if version.directory != directory.resolve():
        print(
            f"warning: version {version.number} was registered as {version.directory}, and stays that", file=sys.stderr
        )
    return 0


def publish(checkpoint: Path, store: Path, *, again: bool = False) -> Path:
    """Record the probes of a checkpoint and copy it into a store, under a name that holds its digest.

    The copy appears by one rename, so a half-copied one is never seen. One that is there already is kept.

    Args:
        again: replace one that is there.

    Raises:
        CheckpointError: the checkpoint is not whole, holds a pickle, other tensors than its architecture has or values
            that are not finite, or cannot be proved; or what is there is damaged.
    """
    from screening.checkpoint.manifest import store_manifest, verify
    from screening.checkpoint.seal import sealed
    from screening.checkpoint.weights import check_finite, read_tensors
    from screening.errors import CheckpointError
    from screening.inference.inspection import inspect
    from trainer.release.publish.incoming import incoming

    manifest = verify(checkpoint)
    tensors = read_tensors(checkpoint, manifest)
    check_finite(checkpoint, manifest)
    target = store / published_name(manifest)
    replaced = store / f".replaced-{target.name}"
    if replaced.exists() and not target.exists():  # by a process that was killed between its two renames
        replaced.rename(target)
    if target.exists() and not again:
        return _whole(target, manifest.digest)
    reading = inspect(checkpoint, manifest)
    store.mkdir(parents=True, exist_ok=True)
    with incoming(store) as place:
        copy = place / "checkpoint"
        shutil.copytree(checkpoint, copy, symlinks=True)
        if verify(copy).digest != manifest.digest:
            raise CheckpointError(f"{checkpoint} changed while it was copied")
        # Of the copy: what is proved is what is published.
        probes = _record(copy, manifest, checkpoint).model_copy(update={"reading": reading})
        store_manifest(sealed(manifest.model_copy(update={"probes": probes, "tensors": tensors})), copy)
        put(copy, target, replaced)
    return target


def put(copy: Path, target: Path, replaced: Path) -> None:
    """Move a directory into its place; what was there is back in it when that fails."""
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    try:
        copy.rename(target)
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _whole(published: Path, digest: str) -> Path:
    """What is published already, if it is that."""
    from screening.checkpoint.manifest import verify
    from screening.checkpoint.seal import check_seal
    from screening.errors import CheckpointError

    try:
        manifest = verify(published)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. The copy in the store is damaged: replace it with --again") from error
    if manifest.digest != digest or manifest.probes is None:
        what = f"holds {manifest.digest}" if manifest.digest != digest else "carries no probes"
        raise CheckpointError(f"{published} {what}: it was changed by hand. Replace it with --again")
    try:
        check_seal(manifest)
    except CheckpointError as error:
        raise CheckpointError(f"{published}: {error}") from error
    if manifest.probes.rounding is None:
        missing = _ONE_KIND_ONLY.format(machine=manifest.probes.machine or "unknown")
        print(f"warning: {missing}; --again asks for them", file=sys.stderr)
    return published


def published_name(manifest: Manifest) -> str:
    """`tiny-grpo-0123456789ab`: for people, and unique."""
    words = f"{manifest.name}-{manifest.version}".lower()
    readable = "".join(c if c.isascii() and c.isalnum() else "-" for c in words).strip("-")
    return f"{readable}-{manifest.digest.removeprefix('sha256:')[:12]}"


def _record(copy: Path, manifest: Manifest, named: Path) -> Probes:
    """
    Args:
        named: the directory that the user knows the copy's content by.

    Raises:
        CheckpointError: the checkpoint cannot be proved.
    """
    from screening.errors import CheckpointError
    from trainer.release.publish.probing import open_prober, record, with_exact

    try:
        with open_prober(copy, manifest) as (ask, machine):
            probes = record(ask, machine, manifest.dimensions)
    except ValueError as error:
        raise CheckpointError(f"{named}: {error}") from error
    except RuntimeError as error:  # all that vLLM says when its processes did not start or died
        raise CheckpointError(
            f"{named} is not published, vLLM failed on it ({error}). Its log, above this, says why: if memory is "
            "short, end what else uses it and run the same command again"
        ) from error
    try:
        with open_prober(copy, manifest, dtype="float32") as (ask, _):
            return with_exact(probes, ask)
    except (ValueError, RuntimeError) as error:  # the same, for want of memory perhaps
        print(f"warning: {_ONE_KIND_ONLY.format(machine=machine)}: {error}", file=sys.stderr)
        return probes
