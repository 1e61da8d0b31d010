"""The processes of one training, as `accelerate launch` starts them. Each has a GPU and the whole model.

All of them read the same data and take the same steps. Only the first one writes to the run directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from screening.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState


class LaunchError(UserError):
    """The training was not launched correctly; the message says how to launch it."""


def processes() -> PartialState:
    """The state of this process among the processes of its training.

    Raises:
        LaunchError: one process sees several GPUs. torch would spread each batch over them, which TRL refuses.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes == 1 and (gpus := torch.cuda.device_count()) > 1:
        raise LaunchError(
            f"{gpus} GPUs are visible to one process. Run `accelerate launch --num_processes {gpus} -m trainer …` to "
            "train on all of them, or set CUDA_VISIBLE_DEVICES=0 to train on one"
        )
    return state


def on_one_machine(processes: int) -> tuple[str, ...]:
    """Options of torchrun for processes on this machine alone.

    They meet at 127.0.0.1 and a free port. By default they would meet at the machine's name, which need not resolve:
    they would then wait for half an hour.
    """
    return ("--nproc-per-node", str(processes), "--standalone", "--local-addr", "127.0.0.1")
