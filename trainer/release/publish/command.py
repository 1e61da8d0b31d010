"""`python -m trainer publish`: proves a checkpoint in the real engine, copies it into a store and registers it."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.release.registry_options import add_registry_options, choose_registry
from trainer.runs.arguments import add_directory
from trainer.runs.sigterm import engine_ends_on_sigterm

if TYPE_CHECKING:
    from screening.checkpoint.manifest import Manifest
    from screening.checkpoint.probes import Probes

_ONE_KIND_ONLY = (
    "the probes lack float32 log-probabilities, so only machines like the one that recorded them ({machine}) can "
    "serve the checkpoint, and with SCREENING_CPU_DTYPE=bfloat16 if they have no bfloat16 instructions"
)
UNREGISTERED = 3
"""Exit status when the checkpoint is in the store but the registry did not answer. 1 is Python's own after a crash."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser, "--checkpoint", "checkpoint to publish, with its screening.json")
    parser.add_argument(
        "--again",
        action="store_true",
        help="replace the copy that the store already has: it is damaged, or another vLLM version recorded its probes",
    )
    add_registry_options(
        parser,
        store="directory from which services load checkpoints; with `--tracking-uri none` nothing is registered",
        store_needed=True,
    )
    parser.epilog = (
        f"Exit status: 0 published; 2 not published, and the message says why; {UNREGISTERED} the copy is in the store "
        "but the registry did not answer: the same command registers it."
    )


def run(args: argparse.Namespace) -> int:
    from screening.checkpoint.manifest import read_manifest
    from screening.errors import RegistryError
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
        print(f"error: published but not registered: {error}. Run the same command again", file=sys.stderr)
        return UNREGISTERED
    print(f"registered: version {version.number} of {registry}, candidate")
    if version.directory != directory.resolve():
        print(
            f"warning: version {version.number} was registered earlier, and stays at {version.directory}",
            file=sys.stderr,
        )
    return 0


def publish(checkpoint: Path, store: Path, *, again: bool = False) -> Path:
    """Record the probes of a checkpoint and copy it into a store, under a name that holds its digest.

    The copy appears by one rename, so no service sees half a copy. A sound copy that is already there is kept.

    Args:
        again: replace a copy that is already there.

    Raises:
        CheckpointError: the checkpoint is incomplete; holds a pickle, a value that is not finite, or tensors that its
            architecture does not have; an engine cannot prove its weights or its domain block; or the copy that is
            already there is damaged.
    """
    from screening.checkpoint.directory import verify
    from screening.checkpoint.manifest import store_manifest
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
    if replaced.exists() and not target.exists():  # a process was killed between its two renames
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
        # The probes are recorded on the copy, so that the verified files are the published ones.
        probes = _record(copy, manifest, checkpoint).model_copy(update={"reading": reading})
        store_manifest(sealed(manifest.model_copy(update={"probes": probes, "tensors": tensors})), copy)
        put(copy, target, replaced)
    return target


def put(copy: Path, target: Path, replaced: Path) -> None:
    """Move a directory to `target`. If that fails, the directory that was there before is put back."""
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
    """Check a copy that is already in the store, and return its directory.

    Raises:
        CheckpointError: it is damaged, or not what `publish` wrote.
    """
    from screening.checkpoint.directory import verify
    from screening.checkpoint.seal import check_seal
    from screening.errors import CheckpointError

    try:
        manifest = verify(published)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. The copy in the store is damaged. Replace it with --again") from error
    if manifest.digest != digest or manifest.probes is None:
        what = f"has the digest {manifest.digest}" if manifest.digest != digest else "has no probes"
        raise CheckpointError(f"{published} {what}: it was changed by hand. Replace it with --again")
    try:
        check_seal(manifest)
    except CheckpointError as error:
        raise CheckpointError(f"{published}: {error}") from error
    if manifest.probes.rounding is None:
        missing = _ONE_KIND_ONLY.format(machine=manifest.probes.machine or "unknown")
        print(f"warning: {missing}. Record them with --again", file=sys.stderr)
    return published


def published_name(manifest: Manifest) -> str:
    """Directory name in a store: readable and unique, for example `tiny-grpo-0123456789ab`."""
    words = f"{manifest.name}-{manifest.version}".lower()
    readable = "".join(c if c.isascii() and c.isalnum() else "-" for c in words).strip("-")
    return f"{readable}-{manifest.digest.removeprefix('sha256:')[:12]}"


def _record(copy: Path, manifest: Manifest, named: Path) -> Probes:
    """Have engines record the probes of a copied checkpoint, and prove its domain block.

    Args:
        copy: the checkpoint that the engines load.
        named: the directory that the user gave, for messages.

    Raises:
        CheckpointError: vLLM failed, its answers prove nothing, or the domain block belongs to other weights.
    """
    from screening.errors import CheckpointError
    from trainer.release.publish.probing import open_prober, prove_domain, record, with_exact

    try:
        # bfloat16 on every machine: services on a GPU compute in it, and those in float32 repeat the exact numbers.
        with open_prober(copy, manifest, dtype="bfloat16") as prober:
            prove_domain(manifest.domain, prober)
            probes = record(prober.ask, prober.machine, manifest.dimensions)
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{named}: {error}") from error
    except RuntimeError as error:  # vLLM raises it when its processes do not start or die
        raise CheckpointError(
            f"{named} is not published: vLLM failed on it ({error}). vLLM's log, above this line, says why. If memory "
            "is short, end other programs and run the same command again"
        ) from error
    try:
        with open_prober(copy, manifest, dtype="float32") as exact_prober:
            return with_exact(probes, exact_prober.ask)
    except (ValueError, RuntimeError) as error:  # float32 needs twice the memory, which may be missing
        print(f"warning: {_ONE_KIND_ONLY.format(machine=probes.machine)}: {error}", file=sys.stderr)
        return probes
