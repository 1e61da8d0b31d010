"""Two processes that render one pool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.research.pretrain.pool import PRODUCTS_NAME, PoolSpec, load_or_render

pytestmark = pytest.mark.slow

SPEC = PoolSpec(
    products=12,
    usable_per_product=1,
    defective_per_product=1,
    seed=1,
    render_size=32,
    size=16,
    severities=(1, 0, 0),
    dimension_weights=(1, 0, 0, 0),
)
RENDER = """
import sys
from pathlib import Path
from tests.trainer.research.pretrain.test_pool import SPEC
from trainer.research.pretrain.pool import load_or_render

if __name__ == "__main__":
    load_or_render(Path(sys.argv[1]), SPEC, 1)
"""


def test_a_second_process_waits_and_each_product_is_rendered_once(tmp_path: Path) -> None:
    alone = load_or_render(tmp_path / "alone", SPEC, 1)
    command = [sys.executable, "-c", RENDER, str(tmp_path / "shared")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    written = [json.loads(line)["index"] for line in (tmp_path / "shared" / PRODUCTS_NAME).read_text().splitlines()]
    assert sorted(written) == list(range(SPEC.products))
    assert np.array_equal(load_or_render(tmp_path / "shared", SPEC, 1).pixels, alone.pixels)
