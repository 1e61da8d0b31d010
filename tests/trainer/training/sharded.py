"""Runs commands of the trainer, one after the other, in a process of two on the CPU, with and without FSDP2.

The configuration is the shipped one, read by accelerate. accelerate knows FSDP on GPUs only, so it is told that these
processes have one each; the backend stays gloo.
"""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.trainer import forked
from tests.trainer.command_line import ROOT
from trainer.__main__ import main
from trainer.records import Sample
from trainer.training.sharding import is_sharded

CONFIGURATION = ROOT / "trainer/recipes/accelerate/fsdp2.yaml"
NEWEST = "checkpoint-4"


def noise(text: str, _: Sample) -> float:
    """A reward that differs within a group. Random weights earn none and would not learn."""
    return zlib.crc32(text.encode()) % 7 / 7


def settings() -> dict[str, str]:
    """What `accelerate launch` puts into the environment for the shipped configuration."""
    given = launch_command_parser().parse_args(["--config_file", str(CONFIGURATION), "--num_processes", "2", "x.py"])
    made = prepare_multi_gpu_env(_validate_launch_command(given)[0])
    return {name: value for name, value in made.items() if name.startswith("FSDP_") or name == "ACCELERATE_USE_FSDP"}


def allow_fsdp_on_a_cpu() -> None:
    real = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        state = PartialState(cpu=True)
        if is_sharded() and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU
        real(self, *args, **kwargs)

    AcceleratorState.__init__ = init


def run(command: list[str]) -> None:
    """Run one step of the test.

    Args:
        command: `sharded` or `whole` and a command of the trainer; or `cut RUN COPY`, which copies a run without its
            end, as if it had been killed.
    """
    how, *rest = command
    if how == "cut":
        with PartialState().main_process_first():
            if PartialState().is_main_process:
                copy = Path(shutil.copytree(*rest))
                shutil.rmtree(copy / "checkpoint")
                shutil.rmtree(copy / "trl" / NEWEST)
        return
    os.environ["ACCELERATE_USE_FSDP"] = str(how == "sharded")
    assert main(rest) == 0, command


def run_all(commands: list[list[str]], output: Path) -> None:
    """Run the steps of the test in one of the two processes, whose environment has the `settings`."""
    torch.set_num_threads(1)
    allow_fsdp_on_a_cpu()
    with forked.printing_to(output):
        for command in commands:
            run(command)
