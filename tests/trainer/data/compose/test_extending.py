"""The inpainter of docs/how-to, and the demo, as a reader runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.data.compose.photos import compose, make_products, make_references
from trainer.data_directory import read_any_samples


def test_the_inpainter_of_the_page_paints(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs" / "how-to" / "add-a-segmenter-or-inpainter.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "shop_of_the_page").mkdir()
    (tmp_path / "shop_of_the_page" / "blurred.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    products, references = make_products(tmp_path / "products", 1), make_references(tmp_path / "references")
    inpainter = "shop_of_the_page.blurred:Blurred"
    assert compose(products, references, tmp_path / "out", "--inpainter", inpainter) == 0
    assert "painted by blurred" in capsys.readouterr().out
    assert len(read_any_samples(tmp_path / "out")) == 1


@pytest.mark.slow
def test_the_demo_shows_every_step_of_a_photograph_and_of_drawn_photos(repository: Path, tmp_path: Path) -> None:
    program = repository / "clients" / "python" / "examples" / "compose_demo.py"
    done = subprocess.run(
        [sys.executable, str(program), "--out", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    samples = read_any_samples(tmp_path / "data")
    assert {"coffee-cup", "blue-carton"} <= {sample.product for sample in samples}
    page = (tmp_path / "data" / "compose.html").read_text()
    for step in ("original", "placeholder", "mask", "initial", "A", "B", "C", "D"):
        assert page.count(f'alt="{step}"') == len(samples)
    assert (tmp_path / "data" / "contact-sheet.png").is_file()
    measures = json.loads((tmp_path / "data" / "compose.json").read_text())["measures"]
    assert measures["change_inside"] == 0
    assert abs(measures["halo"]) < 3
