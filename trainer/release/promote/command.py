"""`python -m trainer promote`: a published version through the gate, and into production."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.release.registry_options import add_registry_options, need_registry
from trainer.runs.argument_types import positive

if TYPE_CHECKING:
    from screening.checkpoint.manifest import Manifest
    from screening.checkpoint.registry import Registry, Version
    from trainer.release.promote.moves import History
    from trainer.release.promote.report import Gate
    from trainer.release.promote.standing import Standing

NOT_PROMOTED = 1
"""Exit status of a version that does not pass the gate, and of an evaluation that the same command goes on with."""

STORE_HELP = "the --store of `publish`, to find the registry beside it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="number of a registered version, or `candidate`")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the frozen test set, a data directory")
    parser.add_argument("--out", type=Path, metavar="DIR", help="directory for evaluations, table and flips")
    parser.add_argument("--mode", choices=("cot", "direct"), default="cot", help="how to answer (default: cot)")
    for name, whose in (("candidate", "VERSION"), ("production", "the version in production")):
        parser.add_argument(
            f"--{name}-evaluation",
            type=Path,
            metavar="DIR",
            help=f"what `trainer evaluate` wrote for {whose} on --data (default: evaluate now, with vLLM)",
        )
    parser.add_argument(
        "--batch", type=positive, default=64, metavar="N", help="samples at once (default: %(default)s)"
    )
    parser.add_argument("--limits", type=Path, metavar="FILE", help="YAML file of the limits that differ")
    parser.add_argument(
        "--force", action="store_true", help="promote whatever the gate and the history say; needs --reason"
    )
    add_move_options(parser)
    add_registry_options(parser, store=STORE_HELP)


def add_move_options(parser: argparse.ArgumentParser, *, reason_needed: bool = False) -> None:
    """Who moves the alias, and why: options of `promote` and `rollback`."""
    parser.add_argument("--reason", type=_reason, required=reason_needed, metavar="TEXT", help="kept in the history")
    parser.add_argument("--by", type=_name, metavar="NAME", help="who does this (default: user and machine)")


def run(args: argparse.Namespace) -> int:
    from screening.errors import ScreeningError
    from trainer.data_directory import DataError
    from trainer.evaluation.compare.pairs import CompareError
    from trainer.evaluation.evaluate.errors import EvaluationError, Unfinished
    from trainer.release.promote.evidence import EvidenceError
    from trainer.release.promote.limits import LimitsError
    from trainer.release.promote.moves import MoveError
    from trainer.runs.json_log import LogError
    from trainer.runs.run_directory import RunMismatch
    from trainer.training.tracking.store import TrackingError

    if wrong := _complaint(args):
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    ours = (CompareError, DataError, EvaluationError, EvidenceError, LimitsError, LogError, MoveError, RunMismatch)
    try:
        return promote(args)
    except Unfinished as error:
        print(f"error: {error}; the same command goes on from there", file=sys.stderr)
        return NOT_PROMOTED
    except (*ours, ScreeningError, TrackingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; `history` says what is in production, and the same command goes on from there", file=sys.stderr)
        return 130


def promote(args: argparse.Namespace) -> int:
    """Measure, print, and move the alias if the gate passes or is overruled. Returns the exit status.

    Raises:
        Everything that `run` turns into a message.
    """
    from trainer.release.promote.evidence import whole
    from trainer.release.promote.measure import summary
    from trainer.release.promote.moves import MoveError, move, whoever
    from trainer.release.promote.standing import read_standing

    registry = need_registry(args)
    candidate = _find(registry, args.version)
    standing = read_standing(registry)
    production, doubt = standing.version, standing.doubt(candidate)
    if doubt and not args.force:
        raise MoveError(f"{doubt}. {_remedy(standing)}")
    if standing.alias == candidate.number and not doubt:
        print(f"version {candidate.number} is in production already")
        return 0
    manifest = whole(candidate)
    gate = _measured(args, candidate, production, manifest) if args.data else None
    if gate and (last := _last_data(standing.history)) not in (None, gate.data):
        print(f"note: the last move was measured on other data, {last}", file=sys.stderr)
    if gate and not gate.passed and not args.force:
        print(f"\nnot promoted: {'; '.join(gate.failed)}", file=sys.stderr)
        return NOT_PROMOTED
    forced = bool(args.force and (doubt or not (gate and gate.passed)))
    result = summary(gate, args.out) if gate else None
    by = args.by or whoever()
    move(registry, standing.alias, candidate, "promote", by=by, reason=args.reason, forced=forced, gate=result)
    before = "nothing" if standing.alias is None else f"version {standing.alias}"
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
    """What to do where production is in doubt."""
    last = standing.history.last
    again = (
        f"Promote or publish version {last.after} again to restore it, or"
        if last and not standing.alias
        else "Look at `history`;"
    )
    return f"Nothing was moved, for a worse version could pass. {again} promote with --force --reason TEXT"


def _find(registry: Registry, name: str) -> Version:
    from screening.checkpoint.registry import CANDIDATE
    from screening.errors import RegistryError

    version = registry.resolve(CANDIDATE) if name == CANDIDATE else registry.version(int(name))
    if version is None:
        raise RegistryError(f"registry {registry}: there is no version {name}; `publish` makes one")
    return version


def _last_data(history: History) -> str | None:
    """Digest of the test set that the last measured move passed."""
    return next((one.gate.data for one in reversed(history.moves) if one.gate), None)


def _complaint(args: argparse.Namespace) -> str | None:
    """What argparse cannot see: options that need each other."""
    from screening.checkpoint.registry import CANDIDATE

    if args.version != CANDIDATE and not re.fullmatch(r"[0-9]{1,9}", args.version):
        return f"{args.version!r} is no version: give its number, or `{CANDIDATE}`"
    if args.force and not args.reason:
        return "--force needs --reason: the history keeps why"
    if args.data is None and not args.force:
        return "--data is missing: the gate measures on the frozen test set (or --force --reason TEXT)"
    if (args.data is None) != (args.out is None):
        return "--data and --out go together"
    return None


def _reason(text: str) -> str:
    from trainer.release.promote.moves import REASON_LENGTH

    return _text(text, "a reason", REASON_LENGTH)


def _name(text: str) -> str:
    return _text(text, "a name", 200)


def _text(text: str, what: str, longest: int) -> str:
    if not text.strip() or len(text) > longest:
        raise argparse.ArgumentTypeError(f"{what} has 1 to {longest} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are not UTF-8
        raise argparse.ArgumentTypeError(f"{what} is written in UTF-8") from error
    return text.strip()
