"""The demo: the rule it counts by, the products it ships, and that it leaves nothing running."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from screening_client import Box, OptionVerdict, Region
from screening_client.testing import FakeService

pytestmark = pytest.mark.slow

DIMENSIONS = {"appearance_deformation", "physical_shadow", "placement_layout", "extension_rationality"}


@pytest.fixture
def examples(repository: Path) -> Path:
    return repository / "clients" / "python" / "examples"


@pytest.fixture
def load(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a program of the examples folder as a module."""
    monkeypatch.syspath_prepend(str(examples))
    before = set(sys.modules)
    yield import_module
    for name in {"demo", "demo_page", "demo_products", "make_examples", "run_demo"} - before:
        sys.modules.pop(name, None)


def run_demo(examples: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(examples / "demo.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("acceptable", "label", "right"),
    [
        ("A", "A", True),
        ("A", "AC", True),
        ("AC", "AC", True),
        ("AC", "A", False),
        ("B", "AC", False),
        ("A", "N", False),
        ("", "N", True),
        ("", "AC", False),
    ],
)
def test_a_decision_is_right_by_the_paper_s_rule(load: Any, acceptable: str, label: str, right: bool) -> None:
    demo: ModuleType = load("demo_products")
    assert demo.agrees(tuple(acceptable), label) is right
    assert demo.agrees(tuple(acceptable), label, answered=False) is False


@pytest.mark.parametrize(
    ("issues", "comment", "match"),
    [
        (
            ("physical_shadow", "appearance_deformation"),
            "shadow + appearance: two shadows and the number differs",
            True,
        ),
        (("physical_shadow", "appearance_deformation"), "shadow + appearance: two shadows and the cap differs", False),
        (("physical_shadow",), "shadow: the number differs and two shadows", False),
        ((), None, False),
    ],
)
def test_a_comment_matches_with_the_planted_dimensions_and_remarks_in_any_order(
    load: Any, issues: tuple[Any, ...], comment: str | None, match: bool
) -> None:
    planted = load("demo_products").Planted(
        ("appearance_deformation", "physical_shadow"), "the number differs and two shadows"
    )
    assert planted.matches(OptionVerdict("A", False, issues, comment)) is match


def test_the_shipped_products_are_complete_small_and_varied(load: Any, examples: Path) -> None:
    products = load("demo_products").load_products(examples / "products")
    labels = [product.label for product in products]
    assert len(products) >= 8 and labels.count("N") >= 2
    assert set("ABCD") <= set("".join(labels))
    assert {name for product in products for planted in product.planted for name in planted.dimensions} == DIMENSIONS
    for product in products:
        usable = "".join(o for o, p in zip("ABCD", product.planted, strict=True) if not p.dimensions) or "N"
        assert product.label == usable
        for path in [product.original, *product.generated]:
            assert path.stat().st_size < 25_600
            with Image.open(path) as image:
                assert image.format == "JPEG" and max(image.size) <= 384


def test_the_demo_screens_every_product_and_stops_its_service(examples: Path, tmp_path: Path) -> None:
    page = tmp_path / "demo.html"
    done = run_demo(examples, "--engine", "scripted", "--html", str(page))
    assert done.returncode == 0, done.stderr
    count = len(list((examples / "products").glob("*/truth.json")))
    rows = re.findall(r"^\d\d-\S+ .* (yes|no)$", done.stdout, re.MULTILINE)
    assert len(rows) == count
    assert f"{rows.count('yes')} of {count} decisions agree with the planted truth" in done.stdout
    matching = re.findall(r"^\d\d-\S+ .* ([0-4])/4 ", done.stdout, re.MULTILINE)
    assert f"{sum(map(int, matching))} of {4 * count} comments on the pictures match the planted truth" in done.stdout
    assert done.stdout.count("I ultimately chose") == count and "drained and stopped" in done.stdout
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 5 * count and "http" not in html


def test_the_demo_uses_a_running_service(examples: Path, real_service: str) -> None:
    done = run_demo(examples, "--base-url", real_service, "--mode", "direct")
    assert done.returncode == 0 and "Starting" not in done.stdout
    assert "decisions agree with the planted truth" in done.stdout


def test_the_demo_runs_in_every_locale(examples: Path, real_service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    done = run_demo(examples, "--base-url", real_service)
    assert done.returncode == 0, done.stderr


def test_the_page_frames_the_faults_of_located_answers_only(load: Any, examples: Path) -> None:
    products = load("demo_products")
    product = products.load_products(examples / "products")[0]
    service = FakeService()
    with service.client() as client:
        pages = [
            load("demo_page").page(
                [products.Result(product, client.screen(original=b"o", generated=[b"a"] * 4, locate=locate))]
            )
            for locate in (False, True)
        ]
    assert pages[0].count('<div class="box') == 0 and pages[1].count('<div class="box') in (3, 4)
    assert "left:25.00%;top:25.00%;width:50.00%;height:50.00%" in pages[1]


def test_names_of_places_stay_in_the_picture_and_apart(load: Any) -> None:
    page = load("demo_page")
    style = r'class="name" style="left:(.*?)%;top:(.*?)%;transform:translateX\(-(.*?)%\)'

    def names(*boxes: Box) -> list[tuple[float, float]]:
        issues = ("appearance_deformation", "placement_layout", "physical_shadow", "extension_rationality")
        regions = tuple(Region(issue, box) for issue, box in zip(issues, boxes, strict=False))
        found = re.findall(style, page._boxes(OptionVerdict("B", False, (), "", regions=regions)))
        assert all(left == back for left, _, back in found), "left edge of the picture at 0 %, right edge at 100 %"
        return [(float(left), float(top)) for left, top, _ in found]

    middle, corner, low = Box(0.45, 0.3, 0.55, 0.4), Box(0.9, 0.0, 1.0, 0.1), Box(0.3, 0.9, 0.7, 1.0)
    assert names(middle, middle, corner) == [(50, 22), (50, 30), (95, 0)]
    tops = sorted(top for _, top in names(low, low, low, low))
    assert tops[0] >= 0 and tops[-1] <= 92 and all(after - before >= 8 for before, after in pairwise(tops))


def test_places_need_reasoning(examples: Path) -> None:
    done = run_demo(examples, "--mode", "direct", "--locate")
    assert done.returncode == 2 and "--locate needs --mode cot" in done.stderr


def test_a_failed_start_is_reported_with_the_end_of_the_log(examples: Path, tmp_path: Path) -> None:
    done = run_demo(examples, "--checkpoint", str(tmp_path))
    assert done.returncode == 1 and "Traceback (most recent call last):\n  File" not in done.stderr.partition("log:")[0]
    assert "before it was ready" in done.stderr and "The end of its log" in done.stderr
    assert "screening.json" in done.stderr


def test_missing_products_and_checkpoints_are_named(examples: Path, tmp_path: Path) -> None:
    done = run_demo(examples, "--products", str(tmp_path))
    assert done.returncode == 1 and str(tmp_path) in done.stderr
    done = run_demo(examples, "--checkpoint", str(tmp_path / "none"))
    assert done.returncode == 1 and "--checkpoint" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the service's process in /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_demo_stops_its_service(examples: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-u", str(examples / "demo.py"), "--engine", "scripted"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith("Starting")
        children: list[str] = []
        while not children and demo.poll() is None:
            children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        demo.send_signal(stop)
        _, err = demo.communicate(timeout=120)
    assert demo.returncode == 130 and "Stopped." in err and "Traceback" not in err
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_demo_under_nohup_ignores_the_end_of_its_terminal(load: Any) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        during = load("run_demo").run_demo("demo", lambda: signal.getsignal(signal.SIGHUP), stopped="Stopped.")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert during == signal.SIG_IGN


def sample(number: int, label: str, defect: str = "floating") -> dict[str, Any]:
    """A line of `samples.jsonl`."""
    generated = []
    for letter in "ABCD":
        bad = letter not in label
        kinds = [{"dimension": "placement_layout", "kind": defect, "severity": 1, "comment": "x"}] if bad else []
        dimensions = ["placement_layout"] if bad else []
        generated.append({"file": "p.png", "option": letter, "dimensions": dimensions, "defects": kinds})
    original = {"file": "p.png", "caption": "a red can, on a white background", "attributes": {"kind": "can"}}
    return {"id": f"s{number}", "product": "p", "label": label, "original": original, "generated": generated}


def test_examples_are_chosen_for_variety_with_enough_that_have_no_usable_picture(load: Any) -> None:
    samples = [
        sample(0, "A"),
        sample(1, "A"),
        sample(2, "N"),
        sample(3, "BD", "tilted"),
        sample(4, "N"),
        sample(5, "N"),
    ]
    chosen = load("make_examples").choose(samples, 4, 2)
    assert [each["id"] for each in chosen] == ["s0", "s2", "s3", "s4"]
    with pytest.raises(ValueError, match="without label N"):
        load("make_examples").choose(samples, 10, 2)


def test_examples_are_written_small_and_never_over_others(load: Any, tmp_path: Path) -> None:
    make = load("make_examples")
    lines = [json.dumps(sample(n, label)) for n, label in enumerate(["N", "N", *["AC"] * 8])]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    Image.linear_gradient("L").resize((800, 600)).save(tmp_path / "p.png")
    arguments = [str(tmp_path), "--out", str(tmp_path / "out"), "--count", "10"]
    assert make.main(arguments) == 0
    assert make.main(arguments) == 1
    assert make.main([*arguments, "--replace"]) == 0
    products = load("demo_products").load_products(tmp_path / "out")
    assert len(products) == 10 and products[0].name == "a red can"
    with Image.open(products[0].original) as image:
        assert image.size == (384, 288)
