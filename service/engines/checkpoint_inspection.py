"""A checkpoint is inspected in a process of its own (`screening.inference.inspection`), while this one answers
requests.

What its files do to the libraries that read them, a crash, an endless loop or gigabytes of memory, stays there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from screening.errors import CheckpointError, CheckpointUnavailable
from screening.inference.generation import QUIET_ENVIRONMENT
from screening.inference.inspection import REFUSED

SECONDS = 300.0
"""Maximum time of an inspection. The tiny checkpoint takes 5 s on an idle machine."""
_ENVIRONMENT = {
    **QUIET_ENVIRONMENT,
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",  # the accelerator belongs to the engine
    "OMP_NUM_THREADS": "1",
}


async def inspect_apart(directory: Path, seconds: float = SECONDS) -> None:
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
        raise CheckpointUnavailable(f"{directory} was not inspected within {seconds:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # reads what is left, which closes the pipes
    if process.returncode == REFUSED:
        raise CheckpointError(said.decode(errors="replace").strip())
    if process.returncode != 0:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckpointUnavailable(
            f"{directory} could not be inspected: the program ended with {process.returncode}: {last}"
        )
