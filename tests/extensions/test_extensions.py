"""A fifth dimension, an engine, a reward and a metric, as the pages in docs/how-to add them, used from end to end.

Everything happens on a copy of the code and in a process of its own: a dimension is a row of an enumeration, which
cannot be taken back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FOUR = ["appearance_deformation", "physical_shadow", "placement_layout", "extension_rationality"]
FIVE = [*FOUR, "text_legibility"]


def code_in(page: Path) -> str:
    """The Python code of a page that shows one piece of it."""
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def copy_with_a_fifth_dimension(repository: Path, copy: Path) -> None:
    for package in ("screening", "service", "trainer"):
        shutil.copytree(repository / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    table = copy / "screening" / "task.py"
    before = table.read_text(encoding="utf-8")
    row = code_in(repository / "docs/how-to/add-a-dimension.md")
    after, rows = re.subn(r"^    EXTENSION = .*\n", lambda last: last[0] + row, before, flags=re.MULTILINE)
    assert rows == 1
    table.write_text(after, encoding="utf-8")


def write_the_shop_package(repository: Path, copy: Path) -> None:
    for page in ("add-an-engine", "add-a-reward", "add-a-metric"):
        code = code_in(repository / "docs" / "how-to" / f"{page}.md")
        file = copy / code.partition("\n")[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(code, encoding="utf-8")


@pytest.fixture(scope="module")
def found(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of `five_dimensions.py`, which runs in the copy."""
    copy = tmp_path_factory.mktemp("copy")
    copy_with_a_fifth_dimension(repository, copy)
    write_the_shop_package(repository, copy)
    program = Path(__file__).with_name("five_dimensions.py")
    # The copy comes first, so that only the tests' helpers come from the checkout.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (copy, repository)))}
    done = subprocess.run(
        [sys.executable, program, copy / "work"], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert Path(report["code"]).is_relative_to(copy)
    return report


def test_the_prompt_names_the_fifth_dimension_and_has_another_version(found: dict[str, Any]) -> None:
    assert found["prompt"]["version"] == "standard-1+text"
    assert "Issues have five names: appearance (" in found["prompt"]["cot"]
    assert ", text (lettering is misspelt or cannot be read). A picture" in found["prompt"]["cot"]


def test_the_interface_documents_five(found: dict[str, Any]) -> None:
    assert found["documented"] == FIVE


def test_a_checkpoint_of_five_is_answered_with_five(found: dict[str, Any]) -> None:
    assert found["issues"]["five"] == sorted(FIVE)


def test_a_checkpoint_whose_manifest_names_none_is_answered_with_four(found: dict[str, Any]) -> None:
    assert found["issues"]["four"] == sorted(FOUR)


def test_the_shipped_checkpoint_keeps_its_digest_and_its_probes(found: dict[str, Any], tiny_checkpoint: Path) -> None:
    from screening.checkpoint.manifest import read_manifest

    here = read_manifest(tiny_checkpoint)
    assert here.probes is not None
    assert found["tiny"]["digest"] == here.digest
    assert found["tiny"]["dimensions"] == FOUR
    assert found["tiny"]["answers"] == [probe.answer for probe in here.probes.questions]


def test_the_evaluation_scores_five_with_a_metric_of_ones_own(found: dict[str, Any]) -> None:
    assert list(found["scores"]["dimensions"]) == FIVE
    text = found["scores"]["dimensions"]["text_legibility"]
    assert (text["correct"]["hits"], text["correct"]["n"]) == (4, 4)
    named = found["scores"]["pictures"]["dimensions"]["text_legibility"]["all"]["named"]
    assert (named["hits"], named["n"]) == (12, 12)
    metric = found["scores"]["metrics"]["shop.metrics:offers_something"]
    assert (metric["hits"], metric["n"]) == (4, 4)
    assert re.search(r"text legibility[ |]+100\.00", found["report"])
    assert re.search(r"offers something[ |]+100\.00", found["report"])


def test_a_recipe_s_reward_pays_the_rows_of_stage_2(found: dict[str, Any]) -> None:
    assert found["reward"]["names"] == ["format_reward", "verdicts_reward"]
    assert found["reward"]["all right"] == [1.0, 1.0]
    assert found["reward"]["one picture wrong"] == [1.0, 0.75]
    assert found["reward"]["unreadable"] == [0.0, 0.0]


def test_an_engine_of_ones_own_answers(found: dict[str, Any]) -> None:
    assert found["engine"]["engine"] == found["engine"]["checkpoint"]["name"] == "brightness"
    assert found["engine"]["outcome"] == "answered"
