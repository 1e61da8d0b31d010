"""The other machines of a retraining: `retrain --join RANK` takes part in the trainings of a run, and in nothing else.

The first machine writes an order before each training; this one sees it on the shared file system and starts its part
of the same torchrun. It ends with the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from trainer.release.retrain.config import Settings
from trainer.release.retrain.context import RUNS_NAME
from trainer.release.retrain.errors import BadInput
from trainer.release.retrain.heavy import TRAININGS
from trainer.release.retrain.state import CLOCK_ERROR, Run, State, read_state, utc_now
from trainer.release.retrain.worker import Order, answer_file, take_part

LOOK_EVERY = 2.0
"""Interval between checks of the shared directory, in seconds."""
EARLIER = timedelta(minutes=10)
"""How much earlier than this machine the first one may have started, decided and ended."""


def join(settings: Settings, rank: int, tell: Callable[[str], None]) -> int:
    """Take part in the trainings of the run that is under way, or of the next one. Returns the exit status.

    Args:
        rank: number of this machine among those that train; the first one has 0.

    Raises:
        BadInput: the configuration has no such machine, or the state cannot be read.
    """
    if not 0 < rank < settings.training.nodes:
        raise BadInput(
            f"--join {rank}: training.nodes is {settings.training.nodes}; give 1 to {settings.training.nodes - 1}"
        )
    tell(f"waiting for trainings of {settings.work}")
    began, joined = utc_now() - EARLIER, None
    while True:
        state = read_state(settings.work)
        run = state.unfinished
        if (joined and (run is None or run.id != joined)) or (run is None and _decided_since(state, began)):
            tell("the first machine has no more trainings")
            return 0
        if run:
            joined = run.id
            for order in _open_orders(settings, run):
                tell(f"taking part in {order.stem}")
                take_part(order, rank)
        time.sleep(LOOK_EVERY)


def _decided_since(state: State, moment: datetime) -> bool:
    """Whether the first machine has found no work or ended a run since a given time."""
    decision, run = state.decision, state.run
    if run and run.ended and _is_since(run.ended, moment):
        return True
    return bool(decision and decision.decision == "skip" and _is_since(decision.at, moment))


def _is_since(at: str, moment: datetime) -> bool:
    return moment <= datetime.fromisoformat(at) <= utc_now() + CLOCK_ERROR


def _open_orders(settings: Settings, run: Run) -> Iterator[Path]:
    """Orders of unanswered trainings."""
    for stage in sorted(TRAININGS):
        file = settings.work / RUNS_NAME / run.id / "orders" / f"{stage}.json"
        if file.exists() and not answer_file(file).exists() and Order.model_validate_json(file.read_bytes()).launch:
            yield file
