"""The processes of one training, as `accelerate launch` starts them: each has a GPU and the whole model.

All of them read the same data and take the same steps. What lies in the run directory is written by the first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from screening.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState


class LaunchError(UserError):
    """The training was not started as it has to be; the message says how."""


def processes() -> PartialState:
    """This process among those of its training; alone if nobody launched several.

    Raises:
        LaunchError: one process, and several GPUs: torch would spread each batch over them, which TRL refuses.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes == 1 and (gpus := torch.cuda.device_count()) > 1:
        raise LaunchError(
            f"{gpus} GPUs are visible to one process; start `accelerate launch --num_processes {gpus} -m trainer …` to "
            "train on all of them, or set CUDA_VISIBLE_DEVICES=0 for one"
        )
    return state


def origin_entry(state: PartialState) -> dict[str, int]:
    """How many processes there are, for a run's origin: they decide the batch. Nothing for one, as in runs from before
    this was written down."""
    return {"processes": state.num_processes} if state.num_processes > 1 else {}
