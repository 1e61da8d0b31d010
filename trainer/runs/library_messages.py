"""Messages of libraries that tell users of the trainer nothing."""

from __future__ import annotations

import logging
import warnings


def hide_needless_messages() -> None:
    """Hide two messages in this process. Call it before the libraries are imported.

    - bitsandbytes asks users of some CPUs to install kernels for inference, which no training uses.
    - TRL warns of every vLLM that is newer than TRL itself. The tests hold the two versions that this project pins.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "TRL currently supports vLLM versions", UserWarning)
