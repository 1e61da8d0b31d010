"""Runs the stages of one run in order, and records each before the next one begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from screening.errors import CheckpointUnavailable, RegistryError, UserError
from screening.runtime.utc_time import utc_now_text
from trainer.data.collect.errors import ErasedMeanwhile, Unreachable
from trainer.release.promote.moves import MoveError
from trainer.release.retrain.context import Context
from trainer.release.retrain.errors import BadInput, RegistryTrouble, RetrainError
from trainer.release.retrain.ledger import Ledger
from trainer.release.retrain.stages import STAGES, Stage, stage_directory
from trainer.release.retrain.state import Done, Outcome, key_of
from trainer.release.retrain.work import Result
from trainer.training.tracking.store import TrackingError


def go_on(context: Context, ledger: Ledger, save: Callable[[], None]) -> tuple[Outcome, str]:
    """Do what is not done. Run the stages; returns how the run ends, and why.

    Args:
        save: writes the state; called after each stage.

    Raises:
        RetrainError: the run stops before its end; its class says whether the same call can continue.
    """
    for number, stage in enumerate(STAGES, 1):
        result = _done(context, stage, f"[{number}/{len(STAGES)}] {stage.name}", ledger, save)
        if stage.name == "calibrate" and _is_production(context):
            return "unchanged", "the training produced the model that is already in production"
        if stage.name == "gate" and not result["passed"]:
            return "refused", f"the gate refused the new model: {'; '.join(result['failed'])}"
    return "promoted", f"version {context.of('promote')['after']} is in production"


def _done(context: Context, stage: Stage, title: str, ledger: Ledger, save: Callable[[], None]) -> Result:
    """The result of a stage, from an earlier call or from running it now."""
    with translated():
        key = key_of(stage.inputs(context))
        found = context.run.stages.get(stage.name)
        if found and found.key == key:
            context.tell(f"{title}: done before")
            return found.result
        if stage.fenced:
            context.check_token()
        elif stage.gpu:  # a stale run should not take the GPU; a registry that is down must not stop a training
            with suppress(RegistryError):
                context.check_token()
        context.tell(f"{title} …")
        began = time.monotonic()
        counted = (
            ledger.recorded(context.run.id, stage.name, context.settings.budget.gpus) if stage.gpu else nullcontext()
        )
        with counted:
            result = stage.work(context, stage_directory(context, stage, key))
    seconds = round(time.monotonic() - began, 1)
    context.run.stages[stage.name] = Done(key=key, ended=utc_now_text(), seconds=seconds, result=result)
    save()
    how = f"left out, {result['skipped']}" if "skipped" in result else f"done in {seconds:g} s"
    context.tell(f"{title}: {how}")
    return result


def _is_production(context: Context) -> bool:
    production = context.of("decide")["production"]
    return production is not None and production["digest"] == context.of("calibrate")["digest"]


@contextmanager
def translated() -> Iterator[None]:
    """Give the errors of the stages the exit status of a retraining."""
    try:
        yield
    except RetrainError:
        raise
    except (RegistryError, TrackingError) as error:
        raise RegistryTrouble(str(error)) from error
    except (CheckpointUnavailable, MoveError, Unreachable, ErasedMeanwhile, OSError) as error:
        raise RetrainError(f"{error}; the same command continues from there") from error
    except UserError as error:
        raise BadInput(str(error)) from error
