"""`python -m trainer promote`: measures a published version in the gate, and makes it production if it passes."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from screening.errors import UserError
from trainer.release.registry_options import add_registry_options, need_registry
from trainer.runs.arguments import add_batch, add_directory, add_mode

if TYPE_CHECKING:
    from screening.checkpoint.manifest import Manifest
    from screening.checkpoint.registry import Registry, Version
    from trainer.release.promote.moves import History
    from trainer.release.promote.report import Gate
    from trainer.release.promote.standing import Standing

NOT_PROMOTED = 1
"""Exit status when the version does not pass the gate, or when the same command must continue an evaluation."""

STORE_HELP = (
    "checkpoint store, as this machine has it mounted; checkpoints are looked for in it by their names (default: where "
    "`publish` had it). The default registry is in its parent directory"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="number of a registered version, or `candidate`")
    add_directory(parser, "--data", "data directory of the frozen test set; needed without --force", required=False)
    add_directory(
        parser,
        "--out",
        "directory for the evaluations, the gate's table and the flips; needed with --data",
        required=False,
    )
    add_mode(parser)
    for name, whose in (("candidate", "VERSION"), ("production", "the version in production")):
        parser.add_argument(
            f"--{name}-evaluation",
            type=Path,
            metavar="DIR",
            help=f"what `trainer evaluate` wrote for {whose} on --data (default: evaluate now, with vLLM)",
        )
    add_batch(parser)
    parser.add_argument(
        "--limits",
        type=Path,
        metavar="FILE",
        help="YAML file with the limits to change (default: see docs/training/release.md)",
    )
    parser.add_argument(
        "--force", action="store_true", help="promote even if the gate or the history says no; needs --reason"
    )
    add_move_options(parser)
    add_registry_options(parser, store=STORE_HELP)


def add_move_options(parser: argparse.ArgumentParser, *, reason_needed: bool = False) -> None:
    """Add `--reason` and `--by`, which the history keeps."""
    parser.add_argument(
        "--reason",
        type=_reason,
        required=reason_needed,
        metavar="TEXT",
        help="why the alias is moved, at most 1000 characters; kept in the history",
    )
    parser.add_argument(
        "--by", type=_name, metavar="NAME", help="who moves the alias; kept in the history (default: user@machine)"
    )


def run(args: argparse.Namespace) -> int:
    if wrong := _complaint(args):
        raise UserError(wrong)
    return promote(args)


def promote(args: argparse.Namespace) -> int:
    """Measure, print, and move the alias if the gate passes or is overruled. Returns the exit status.

    Raises:
        The errors that `run` turns into messages.
    """
    from trainer.release.promote.evidence import whole
    from trainer.release.promote.measure import summary
    from trainer.release.promote.moves import MoveError, move, user_and_machine
    from trainer.release.promote.standing import read_standing

    registry = need_registry(args)
    candidate = _find(registry, args.version).in_store(args.store)
    standing = read_standing(registry, args.store)
    production, doubt = standing.version, standing.doubt(candidate)
    if doubt and not args.force:
        raise MoveError(f"{doubt}. {_remedy(standing)}")
    if standing.alias == candidate.number and not doubt:
        print(f"version {candidate.number} is already in production")
        return 0
    manifest = whole(candidate)
    if manifest.licences:
        print(
            f"warning: version {candidate.number} was trained on pictures under the licence "
            f"{', '.join(sorted(manifest.licences))}, which restricts their use. Read its terms first",
            file=sys.stderr,
        )
    gate = _measured(args, candidate, production, manifest) if args.data else None
    if gate and (last := _last_data(standing.history)) not in (None, gate.data):
        print(f"note: the last move was measured on other data ({last})", file=sys.stderr)
    if gate and not gate.passed and not args.force:
        print(f"\nnot promoted: {'; '.join(gate.failed)}", file=sys.stderr)
        return NOT_PROMOTED
    forced = bool(args.force and (doubt or not (gate and gate.passed)))
    result = summary(gate, args.out) if gate else None
    by = args.by or user_and_machine()
    move(registry, standing.alias, candidate, "promote", by=by, reason=args.reason, forced=forced, gate=result)
    before = "no version" if standing.alias is None else f"version {standing.alias}"
    print(f"production: {before} → version {candidate.number}{', forced' if forced else ''}")
    return 0


def _measured(args: argparse.Namespace, candidate: Version, production: Version | None, manifest: Manifest) -> Gate:
    """Measure as the options say, and print the table."""
    from screening.answer import Mode
    from trainer.release.promote.evidence import TestSet
    from trainer.release.promote.limits import read_limits
    from trainer.release.promote.measure import Evaluations, flips_directory, measure
    from trainer.release.promote.report import render

    test, given = (
        TestSet(args.data, Mode(args.mode), args.batch),
        Evaluations(args.candidate_evaluation, args.production_evaluation),
    )
    gate = measure(
        candidate, production, manifest, test=test, limits=read_limits(args.limits), out=args.out, given=given
    )
    print(render(gate))
    flips = f", {flips_directory(production, candidate)}/flips.html" if production else ""
    print(f"Written to {args.out}: gate.json, gate.md{flips}")
    return gate


def _remedy(standing: Standing) -> str:
    """What to do if the production version is uncertain."""
    last = standing.history.last
    again = (
        f"Promote or publish version {last.after} again to restore it, or"
        if last and not standing.alias
        else "Look at `history`;"
    )
    return f"Production was not moved, because a worse version could pass. {again} promote with --force --reason TEXT"


def _find(registry: Registry, name: str) -> Version:
    from screening.checkpoint.registry import CANDIDATE
    from screening.errors import RegistryError

    version = registry.resolve(CANDIDATE) if name == CANDIDATE else registry.version(int(name))
    if version is None:
        raise RegistryError(f"registry {registry}: version {name} does not exist. `publish` registers versions")
    return version


def _last_data(history: History) -> str | None:
    """Digest of the test set on which the last measured move was measured."""
    return next((one.gate.data for one in reversed(history.moves) if one.gate), None)


def _complaint(args: argparse.Namespace) -> str | None:
    """What is wrong with options that need each other, which argparse cannot check; None if nothing is."""
    from screening.checkpoint.registry import CANDIDATE

    if args.version != CANDIDATE and not re.fullmatch(r"[0-9]{1,9}", args.version):
        return f"{args.version!r} is not a version. Give its number, or `{CANDIDATE}`"
    if args.force and not args.reason:
        return "--force needs --reason, which the history keeps"
    if args.data is None and not args.force:
        return "--data is missing: give the frozen test set, or promote without the gate with --force --reason TEXT"
    if (args.data is None) != (args.out is None):
        return "--data and --out need each other: give both or neither"
    return None


def _reason(text: str) -> str:
    from trainer.release.promote.moves import REASON_LENGTH

    return _text(text, "a reason", REASON_LENGTH)


def _name(text: str) -> str:
    return _text(text, "a name", 200)


def _text(text: str, what: str, longest: int) -> str:
    if not text.strip() or len(text) > longest:
        raise argparse.ArgumentTypeError(f"{what} must have 1 to {longest} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # the command line has bytes that are not UTF-8
        raise argparse.ArgumentTypeError(f"{what} must be written in UTF-8") from error
    return text.strip()
