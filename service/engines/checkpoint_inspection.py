"""Inspection of a checkpoint (`screening.inference.inspection`) in a subprocess, while the service answers requests.

A damaged file can make the libraries that read it crash, loop for ever or fill the memory. That must not reach the
service.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from screening.errors import CheckpointError, CheckpointUnavailable
from screening.inference.inspection import REFUSED
from screening.runtime.environment import QUIET_ENVIRONMENT

SECONDS = 300.0
"""Maximum time of an inspection in seconds. models/tiny takes 5 s on an idle machine."""
_ENVIRONMENT = {
    **QUIET_ENVIRONMENT,
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",  # the accelerator belongs to the engine
    "OMP_NUM_THREADS": "1",
}


async def inspect_in_subprocess(directory: Path, seconds: float = SECONDS) -> None:
    """Run `screening.inference.inspection` on a verified copy.

    Raises:
        CheckpointError: the checkpoint is at fault.
        CheckpointUnavailable: the inspection itself failed, which says nothing certain about the checkpoint.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "screening.inference.inspection", str(directory),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | _ENVIRONMENT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(seconds):
            said, complaint = await process.communicate()
    except TimeoutError:
        raise CheckpointUnavailable(f"The inspection of {directory} did not end within {seconds:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # reads the rest, which closes the pipes
    if process.returncode == REFUSED:
        raise CheckpointError(said.decode(errors="replace").strip())
    if process.returncode != 0:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckpointUnavailable(
            f"{directory} could not be inspected: the inspection ended with status {process.returncode}: {last}"
        )
