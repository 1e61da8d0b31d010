"""`python -m trainer retrain`: from new labels to a model in production, if the gate accepts it."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from screening.runtime.argument_types import positive
from screening.runtime.utc_time import utc_now_text

if TYPE_CHECKING:
    from screening.checkpoint.registry import Registry
    from trainer.release.retrain.config import Settings
    from trainer.release.retrain.context import Context, Execute
    from trainer.release.retrain.ledger import Ledger
    from trainer.release.retrain.lock import FencingToken
    from trainer.release.retrain.state import Decision, Run, State


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file; see docs/retraining.md")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--decide-only", action="store_true", help="print whether there is work, as one line of JSON; needs no GPU"
    )
    what.add_argument("--dry-run", action="store_true", help="print what would be done and why, and change nothing")
    what.add_argument("--explain", action="store_true", help="print what the last run did and why")
    what.add_argument(
        "--join",
        type=positive,
        metavar="RANK",
        help="take part in the trainings of a run on another machine, as machine RANK of training.nodes",
    )
    parser.epilog = (
        "Exit status: 0 promoted, refused by the gate, or nothing to do; 1 not finished, the same command continues; "
        "2 bad input; 3 the registry; 4 promoted, but not every service serves it."
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from trainer.release.retrain.machine import translated
    from trainer.release.retrain.worker import execute

    with translated(), _stopped_by_sigterm():
        return retrain(args, execute)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an error, so that the lease is released and the state says why the call ended.

    As the first process of a container, Python would ignore the signal until Kubernetes kills the pod.
    """

    def stop(*_: object) -> None:
        from trainer.release.retrain.errors import RetrainError

        raise RetrainError("ended by SIGTERM; the same command continues from there")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True)
class Call:
    """The objects that one call of the command uses."""

    settings: Settings
    registry: Registry
    execute: Execute
    state: State
    ledger: Ledger


def retrain(args: argparse.Namespace, execute: Execute) -> int:
    """Decide whether there is work, and do what the options ask for.

    Args:
        execute: the function that runs a GPU stage.

    Raises:
        RetrainError: the call ends without its result.
    """
    from trainer.release.retrain.config import read_config
    from trainer.release.retrain.errors import Busy
    from trainer.release.retrain.joining import join
    from trainer.release.retrain.lock import work_lock

    settings = read_config(args.config)
    if args.join:
        return join(settings, args.join, print)
    if args.explain or args.dry_run:
        print(_told(_call(settings, execute), explain=args.explain))
        return 0
    try:
        with work_lock(settings.work) as locked:
            call = _call(settings, execute)
            return _measured(call, lambda: _decided(call, decide_only=args.decide_only, locked=locked))
    except Busy as error:
        if not args.decide_only:
            raise
        print(json.dumps({"decision": "skip", "reason": str(error)}))
        return 0


def _call(settings: Settings, execute: Execute) -> Call:
    from screening.checkpoint.registry import Registry
    from trainer.release.retrain.errors import BadInput
    from trainer.release.retrain.ledger import Ledger
    from trainer.release.retrain.state import read_state
    from trainer.training.tracking.store import choose_store

    store = choose_store(settings.registry.tracking_uri, settings.registry.store)
    if store is None:
        raise BadInput("registry.tracking_uri is `none`; a retraining needs a registry")
    registry = Registry(store.uri, settings.registry.model)
    return Call(settings, registry, execute, read_state(settings.work), Ledger(settings.work))


def _measured(call: Call, work: Callable[[], int]) -> int:
    """Do the work of a call, and write how it ended into the metrics file, whatever it ended with."""
    from trainer.release.retrain.closing import metrics
    from trainer.release.retrain.errors import RetrainError
    from trainer.release.retrain.machine import translated

    status = RetrainError.exit_status
    try:
        with translated():
            status = work()
    except RetrainError as error:
        status = error.exit_status
        raise
    finally:
        metrics(call.settings, call.state, call.ledger, status)
    return status


def _decided(call: Call, *, decide_only: bool, locked: bool) -> int:
    """Decide and, if there is work, do it. The work directory is locked."""
    from trainer.release.retrain.errors import Busy
    from trainer.release.retrain.lock import busy_with, identity_of
    from trainer.release.retrain.state import write_state

    lease = call.settings.registry.lease_seconds
    if holder := busy_with(call.registry, identity_of(call.settings.work), lease, ours_ended=locked):
        raise Busy(f"{holder}; wait for it to end")
    decision = _decision(call)
    call.state.decision = decision
    write_state(call.settings.work, call.state)
    if decide_only:
        print(json.dumps({"decision": decision.decision, "reason": decision.reason}))
        return 0
    print(f"{decision.decision}: {decision.reason}")
    return 0 if decision.decision == "skip" else _work(call, decision, locked=locked)


def _decision(call: Call) -> Decision:
    from trainer.release.retrain.collect import collector_of
    from trainer.release.retrain.decide import decide

    return decide(call.settings, call.state, call.registry, collector_of(call.settings), call.ledger)


def _work(call: Call, decision: Decision, *, locked: bool) -> int:
    """Continue the run or begin a new one, with a new fencing token."""
    from trainer.release.retrain.closing import prune
    from trainer.release.retrain.lock import FencingToken, identity_of
    from trainer.release.retrain.state import Run, write_state

    settings, state = call.settings, call.state
    now = utc_now_text()
    run = state.unfinished or Run(id=now.replace(":", "").replace("+0000", "Z"), started=now, reason=decision.reason)
    state.run = run
    work = identity_of(settings.work)
    with FencingToken(call.registry, work, socket.gethostname(), settings.registry.lease_seconds) as token:
        token.acquire(ours_ended=locked)
        run.calls += 1
        run.fencing_tokens.append(token.number)
        write_state(settings.work, state)
        status = _ended(call, run, token, lambda: write_state(settings.work, state))
    prune(settings, state)
    return status


def _ended(call: Call, run: Run, token: FencingToken, save: Callable[[], None]) -> int:
    """Run the stages, and record how the call ended. Returns the exit status."""
    from trainer.release.retrain import closing
    from trainer.release.retrain.errors import BadInput, RetrainError, Stale
    from trainer.release.retrain.machine import go_on
    from trainer.release.retrain.releasing import Superseded
    from trainer.release.retrain.state import FINISHED

    context = _context(call, run, token.check)
    status = 0
    try:
        run.outcome, run.message = go_on(context, call.ledger, save)
    except Stale:
        raise  # the state belongs to the later run
    except Superseded as error:
        run.outcome, run.message = "superseded", f"{error}; the next run starts from that"
    except RetrainError as error:
        run.message, status = str(error), error.exit_status
        run.outcome = "failed" if isinstance(error, BadInput) else None
        print(f"error: {error}", file=sys.stderr)
    if run.outcome:
        run.ended = utc_now_text()
    if run.outcome in FINISHED:
        call.state.finished = run
    save()
    print(f"{run.outcome or 'not finished'}: {run.message}")
    closing.report(call.settings, call.registry, run, call.ledger)
    return status


def _context(call: Call, run: Run, check_token: Callable[[], None]) -> Context:
    from trainer.release.retrain.collect import collector_of
    from trainer.release.retrain.context import Context

    return Context(
        settings=call.settings,
        run=run,
        registry=call.registry,
        collector=collector_of(call.settings),
        execute=call.execute,
        check_token=check_token,
        tell=lambda line: print(line, flush=True),
    )


def _told(call: Call, *, explain: bool) -> str:
    """Text of `--explain` and `--dry-run`."""
    from trainer.release.retrain.explain import last_run, would_do

    if explain:
        return last_run(call.state, call.ledger)
    run = call.state.unfinished
    return would_do(_decision(call), _context(call, run, lambda: None) if run else None)
