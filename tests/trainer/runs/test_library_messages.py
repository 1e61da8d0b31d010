"""Needless messages of libraries are hidden by the command that runs, and by no import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import logging, warnings
import trainer.__main__, trainer.training.hcm_grpo

assert not any("TRL" in str(message) for _, message, *_ in warnings.filters)
assert logging.getLogger("bitsandbytes").isEnabledFor(logging.WARNING)
trainer.__main__.main(["--version"])
warnings.warn("TRL currently supports vLLM versions from 0.22.0 to 0.31.0.", UserWarning)
assert not logging.getLogger("bitsandbytes").isEnabledFor(logging.WARNING)
"""


@pytest.mark.slow
def test_a_command_hides_needless_messages_and_an_import_does_not(repository: Path) -> None:
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", CODE], cwd=repository, check=True)
