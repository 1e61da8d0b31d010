"""The processes of one training, as `accelerate launch` starts them. Each has a GPU and the whole model.

All of them read the same data and take the same steps. Only the first one writes to the run directory.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from screening.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState


T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""Maximum time to wait for another process; transformers' default too. NCCL's own of 10 minutes is short for the first
process to check the pictures of a large set on a network file system."""


class LaunchError(UserError):
    """The training was not launched correctly; the message says how to launch it."""


def processes() -> PartialState:
    """The state of this process among the processes of its training.

    Raises:
        LaunchError: one process sees several GPUs. torch would spread each batch over them, which TRL refuses.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    _leave_group_at_exit()
    if state.num_processes == 1 and (gpus := torch.cuda.device_count()) > 1:
        raise LaunchError(
            f"{gpus} GPUs are visible to one process. Run `accelerate launch --num_processes {gpus} -m trainer …` to "
            "train on all of them, or set CUDA_VISIBLE_DEVICES=0 to train on one"
        )
    return state


@cache
def _leave_group_at_exit() -> None:
    """Leave the group before the interpreter ends, which gloo's threads would otherwise sometimes abort."""
    from torch import distributed

    atexit.register(lambda: distributed.is_initialized() and distributed.destroy_process_group())


def told_by_first(value: T, state: PartialState) -> T:
    """Return the first process's value in every process.

    Args:
        value: used in the first process only.
    """
    from accelerate.utils import broadcast_object_list

    told = [value]
    if state.num_processes > 1:
        broadcast_object_list(told, from_process=0)
    return told[0]


def done_by_first(work: Callable[[], T], state: PartialState) -> T:
    """Return the result of work that the first process does for all, such as reading all pictures.

    Raises:
        UserError: the work raised it. Every process raises it, so that none waits for the first one.
    """
    done: tuple[T | None, UserError | None] = None, None
    if state.is_main_process:
        try:
            done = work(), None
        except UserError as error:
            done = None, error
    result, failed = told_by_first(done, state)
    if failed:
        raise failed
    return result  # type: ignore[return-value]  # None only if the work returned it


def on_one_machine(processes: int) -> tuple[str, ...]:
    """Options of torchrun for processes on this machine alone.

    They connect through 127.0.0.1 and a free port. By default torchrun uses the machine's name, and if that does not
    resolve, the processes wait for half an hour.
    """
    return ("--nproc-per-node", str(processes), "--standalone", "--local-addr", "127.0.0.1")
