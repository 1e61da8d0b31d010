"""Runs a GPU stage in its own process, so that its memory is free when the next one starts.

`python -m trainer.release.retrain.worker ORDER PARENT` does what the order says, or starts torchrun to do it in several
processes, which run `python -m trainer.release.retrain.worker ORDER`. Each process ends when the one that started it
ends, for any reason.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from screening.runtime.atomic_write import write_atomically
from trainer.release.retrain.errors import BadInput, RetrainError

MODULE = "trainer.release.retrain.worker"
_PR_SET_PDEATHSIG = 1
_IN_TORCHRUN = "TORCHELASTIC_RUN_ID"


class Order(BaseModel):
    """What a child process is to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    arguments: dict[str, Any]
    launch: tuple[str, ...] = ()
    """Options of torchrun; empty for one process."""


class Answer(BaseModel):
    """What it did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    result: dict[str, Any] | None = None
    problem: str = ""
    kind: Literal["", "input", "again"] = ""
    """`input`: a retry would fail in the same way."""


def execute(
    stage: str,
    arguments: Mapping[str, Any],
    orders: Path,
    launch: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run a GPU stage in a child process and wait for it.

    Args:
        orders: directory for the order and its answer.
        launch: options of torchrun; empty for one process.
        environment: additional environment variables.

    Raises:
        BadInput: the stage refused its input.
        RetrainError: the process failed for another reason; the same call continues.
    """
    orders.mkdir(parents=True, exist_ok=True)
    file = orders / f"{stage}.json"
    answer_file(file).unlink(missing_ok=True)
    write_atomically(file, Order(stage=stage, arguments=dict(arguments), launch=tuple(launch)).model_dump_json())
    command, variables = [sys.executable, "-m", MODULE, str(file), str(os.getpid())], {**os.environ, **environment}
    done = subprocess.run(command, env=variables, check=False)  # noqa: S603 - ours
    try:
        answer = Answer.model_validate_json(answer_file(file).read_bytes())
    except (OSError, ValueError):
        raise RetrainError(
            f"{stage}: its process ended with status {done.returncode} and left no result; the output above says why. "
            "The same command continues from there"
        ) from None
    if answer.result is not None:
        return answer.result
    raise (BadInput if answer.kind == "input" else RetrainError)(f"{stage}: {answer.problem}")


def main(arguments: Sequence[str]) -> int:
    """Do what an order says. Returns the exit status.

    Args:
        arguments: the order's file. Outside torchrun also the id of the process that started this one, and the number
            of this machine among those that train (default: 0).
    """
    file, given = Path(arguments[0]), [int(number) for number in arguments[1:]]
    end_with(given[0] if given else os.getppid())  # torchrun gives its processes a session of their own
    order = Order.model_validate_json(file.read_bytes())
    if order.launch and _IN_TORCHRUN not in os.environ:
        rank = given[1] if len(given) > 1 else 0
        os.execv(sys.executable, _torchrun(file, order, rank))  # noqa: S606 - ours; keeps the tie to the parent
    answer = _done(order)
    if os.environ.get("RANK", "0") == "0":
        write_atomically(answer_file(file), answer.model_dump_json())
    return 0 if answer.result is not None else 1


def take_part(file: Path, rank: int) -> int:
    """Start this machine's processes of a training that the first machine has ordered. Returns torchrun's exit status.

    Args:
        rank: number of this machine among those that train.
    """
    command = [sys.executable, "-m", MODULE, str(file), str(os.getpid()), str(rank)]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - ours


def _torchrun(file: Path, order: Order, rank: int) -> list[str]:
    launch = (*order.launch, "--node-rank", str(rank)) if "--master-addr" in order.launch else order.launch
    return [sys.executable, "-m", "torch.distributed.run", *launch, "-m", MODULE, str(file)]


def _done(order: Order) -> Answer:
    """Do the work. Errors of its input are distinguished from those that a retry may fix."""
    from screening.errors import CheckpointError, CheckpointUnavailable, UserError
    from trainer.evaluation.evaluate.errors import Unfinished
    from trainer.release.retrain.heavy import HEAVY
    from trainer.runs.json_log import LogError
    from trainer.runs.run_directory import RunMismatch

    try:
        return Answer(result=HEAVY[order.stage](**order.arguments))
    except (CheckpointUnavailable, Unfinished, LogError, OSError, RunMismatch) as error:
        return Answer(problem=str(error), kind="again")
    except CheckpointError as error:  # `publish` raises it if the engine did not start
        return Answer(problem=str(error), kind="again" if isinstance(error.__cause__, RuntimeError) else "input")
    except UserError as error:
        return Answer(problem=str(error), kind="input")


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies: a parent that is killed with -9 cannot end it. Linux
    only."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the request took effect
        os.kill(os.getpid(), signal.SIGKILL)


def answer_file(order: Path) -> Path:
    """Where the answer to an order is written."""
    return order.with_suffix(".answer.json")


if __name__ == "__main__":
    from screening.runtime.cpus import limit_threads
    from screening.runtime.environment import name_the_user, prevent_reports_and_downloads
    from trainer.runs.library_messages import hide_needless_messages

    limit_threads(os.environ)
    name_the_user(os.environ)
    prevent_reports_and_downloads(os.environ)
    hide_needless_messages()
    sys.exit(main(sys.argv[1:]))
