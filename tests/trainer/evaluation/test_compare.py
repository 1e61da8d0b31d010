"""Comparison of two evaluations: numbers calculated by hand, refusals, and a page that escapes HTML of the data."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from screening.answer import Finding, Mode, compose, parse, render
from screening.task import NONE, OPTIONS, Dimension
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.evaluation.compare import flips_page
from trainer.evaluation.compare.paired import difference_interval, mcnemar_exact, paired
from trainer.evaluation.evaluate.predictions import Prediction
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, EvaluatedData, Evaluation, Tokens, now, versions
from trainer.metrics import Judged, evaluate_scores

SHADOW, LAYOUT = Dimension.SHADOW, Dimension.LAYOUT
LABELS = ("AC", "N", "B", "ABCD", "D")
WRONG = {"AC": "B", "N": "A", "B": "AB", "ABCD": "N", "D": "N"}
"""An answer that is wrong for each label."""
counts = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


def make_data(directory: Path, labels: Sequence[str] = LABELS, *, comment: str = "") -> Path:
    """Sample n has shadow issues where n is even, layout issues where it is odd."""
    lines = []
    for number, label in enumerate(labels):
        folder = directory / "pictures" / f"s{number}"
        folder.mkdir(parents=True)
        for place, name in enumerate(("original", *"abcd")):
            Image.new("RGB", (300, 150), (40 * number, 50 * place, 0)).save(folder / f"{name}.png")
        generated = [
            {
                "file": f"pictures/s{number}/{option.lower()}.png",
                "option": option,
                "usable": option in label,
                "dimensions": [] if option in label else [LAYOUT if number % 2 else SHADOW],
                "severity": 0 if option in label else 2,
                "comment": comment,
            }
            for option in OPTIONS
        ]
        original = {"file": f"pictures/s{number}/original.png"}
        record = {"id": f"s{number}", "product": "p", "original": original, "generated": generated, "label": label}
        lines.append(json.dumps(record) + "\n")
    (directory / "samples.jsonl").write_text("".join(lines))
    return directory


def think(options: str, comment: str = "seen") -> str:
    """A chain of thought that ends in these letters."""
    findings = tuple(
        Finding(option, frozenset() if option in options else frozenset({SHADOW}), comment) for option in OPTIONS
    )
    return render(compose(frozenset(options) - {NONE}, findings), Mode.COT)


def make_evaluation(
    directory: Path, data: Path, texts: Sequence[str], *, name: str = "tiny", limit: int | None = None, **changes: Any
) -> Path:
    """Write an evaluation with these texts as answers; `changes` apply to scores.json."""
    samples = read_samples(data)
    mode = changes.get("mode", Mode.COT)
    judged = [Judged(sample, parse(text, mode)) for sample, text in zip(samples, texts, strict=False)]
    logged = [
        Prediction.of(one, text=text, finish="stop", confidence=0.5, prompt_tokens=1, completion_tokens=1)
        for one, text in zip(judged, texts, strict=False)
    ]
    evaluated = judged[:limit]
    result = Evaluation(
        created=now(),
        checkpoint=EvaluatedCheckpoint(name=name, version="1", digest=f"sha256:{name}"),
        data=EvaluatedData(digest=data_digest(data, samples), samples=len(samples), evaluated=len(evaluated)),
        mode=mode,
        scores=evaluate_scores(evaluated),
        reliability=None,
        tokens=Tokens(prompt=1, completion=1, cut=0),
        versions=versions(),
    ).model_copy(update=changes)
    directory.mkdir()
    (directory / "scores.json").write_text(result.model_dump_json())
    (directory / "predictions.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in logged))
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture
def before(tmp_path: Path, data: Path) -> Path:
    """Right on s0, s1 and s3."""
    texts = [think("A"), think("N"), think(WRONG["B"]), think("ABCD"), "no answer"]
    return make_evaluation(tmp_path / "before", data, texts, name="old")


@pytest.fixture
def after(tmp_path: Path, data: Path) -> Path:
    """Right on s0, s2, s3 and s4."""
    texts = [think("AC"), think(WRONG["N"]), think("B"), think("D"), think("D")]
    return make_evaluation(tmp_path / "after", data, texts, name="new")


def compare(before: Path, after: Path, out: Path, data: Path | None = None) -> int:
    named = ["--data", str(data)] if data else []
    return main(["compare", "--before", str(before), "--after", str(after), "--out", str(out), *named])


def result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "comparison.json").read_text()))


@pytest.mark.parametrize(
    ("worse", "better", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        (1, 5, 2 * (1 + 6) / 64),
        (5, 1, 2 * (1 + 6) / 64),
        (0, 10, 2 / 1024),
        (1, 7, 18 / 256),  # airway reactivity before and after a transplantation, Fagerland et al. 2013
    ],
)
def test_the_exact_test_equals_a_calculation_by_hand(worse: int, better: int, p: float) -> None:
    assert mcnemar_exact(worse, better) == p


def test_the_exact_test_is_the_binomial_tail_for_counts_that_floats_cannot_hold() -> None:
    tail = Fraction(2 * sum(comb(5000, k) for k in range(2401)), 2**5000)
    assert mcnemar_exact(2400, 2600) == pytest.approx(float(tail), rel=1e-12)
    assert mcnemar_exact(0, 5000) == 0.0  # too small for a float; no error is raised
    with pytest.raises(ValueError, match="must not be negative"):
        mcnemar_exact(-1, 2)


@pytest.mark.parametrize(
    ("table", "bounds"),
    [
        # Newcombe 1998, table II, method 10; the paper's e, f, g, h with its difference (f - g) / n.
        ((36, 2, 12, 0), (0.0569, 0.3404)),
        # Bentur 2009 in Fagerland, Lydersen, Laake 2014: -0.507 to -0.026 for before - after.
        ((1, 7, 1, 12), (-0.5069, -0.0256)),
    ],
)
def test_published_intervals_are_met(table: tuple[int, int, int, int], bounds: tuple[float, float]) -> None:
    assert difference_interval(*table) == pytest.approx(bounds, abs=6e-5)


@given(counts)
def test_the_interval_contains_the_difference_and_is_symmetric(table: tuple[int, int, int, int]) -> None:
    both, worse, better, neither = table
    low, high = difference_interval(*table)
    assert -1 <= low <= (better - worse) / sum(table) <= high <= 1
    assert low < high
    mirrored = difference_interval(both, better, worse, neither)
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)


def test_an_interval_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no interval"):
        difference_interval(0, 0, 0, 0)
    nothing = paired([])
    assert (nothing.n, nothing.before, nothing.difference, nothing.low, nothing.p_value) == (0, None, None, None, None)


def test_overall_and_dimension_scores_equal_a_calculation_by_hand(
    tmp_path: Path, before: Path, after: Path, data: Path
) -> None:
    assert compare(before, after, tmp_path / "out", data) == 0
    found = result(tmp_path / "out")
    overall = found["overall"]
    assert [overall[key] for key in ("n", "both_right", "right_to_wrong", "wrong_to_right", "both_wrong")] == [
        5,
        2,
        1,
        2,
        0,
    ]
    assert (overall["before"], overall["after"], overall["difference"]) == (60, 80, 20)
    assert overall["p_value"] == 1.0
    low, high = difference_interval(2, 1, 2, 0)
    assert (overall["low"], overall["high"]) == pytest.approx((100 * low, 100 * high))
    shadow, layout = found["dimensions"]["physical_shadow"], found["dimensions"]["placement_layout"]
    assert (shadow["n"], shadow["right_to_wrong"], shadow["wrong_to_right"]) == (3, 0, 2)
    assert shadow["p_value"] == 0.5
    assert (layout["n"], layout["right_to_wrong"], layout["wrong_to_right"]) == (1, 1, 0)  # s3 has no issue at all
    assert found["dimensions"]["extension_rationality"]["n"] == 0
    assert (found["before"]["name"], found["after"]["name"], found["mode"]) == ("old", "new", "cot")


def test_flips_hold_label_answers_and_dimensions(tmp_path: Path, before: Path, after: Path, data: Path) -> None:
    assert compare(before, after, tmp_path / "out", data) == 0
    flips = result(tmp_path / "out")["flips"]
    assert [(flip["id"], flip["direction"], flip["label"]) for flip in flips] == [
        ("s1", "right_to_wrong", "N"),
        ("s2", "wrong_to_right", "B"),
        ("s4", "wrong_to_right", "D"),
    ]
    assert flips[0]["dimensions"] == ["placement_layout"]
    assert (flips[0]["before"]["options"], flips[0]["after"]["options"]) == ("N", "A")
    assert flips[1]["before"]["reasoning"].startswith("I observed <A> normal")
    assert (flips[2]["before"]["options"], flips[2]["before"]["unreadable"]) == (None, "no_think")
    assert flips[2]["before"]["text"] == "no answer"
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert "+20.00 points" in table
    assert re.search(r"\| s4 +\| wrong → right \| +D \| unreadable: no_think \| +D \| +shadow \|", table)
    assert re.search(r"\| physical shadow +\| +33.33 \| +100.00 \| +\+66.67 ", table)


def test_a_checkpoint_against_itself_flips_nothing(tmp_path: Path, before: Path, data: Path) -> None:
    assert compare(before, before, tmp_path / "out", data) == 0
    found = result(tmp_path / "out")
    assert found["flips"] == []
    assert (found["overall"]["difference"], found["overall"]["p_value"]) == (0, 1)
    assert found["overall"]["low"] < 0 < found["overall"]["high"]


def test_the_page_shows_five_small_pictures_per_flip_and_needs_nothing_else(
    tmp_path: Path, before: Path, after: Path, data: Path
) -> None:
    assert compare(before, after, tmp_path / "out", data) == 0
    page = (tmp_path / "out" / "flips.html").read_text()
    assert page.count("<article") == 3
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 15
    for encoded in pictures:
        with Image.open(BytesIO(b64decode(encoded))) as image:
            assert (image.format, image.size) == ("JPEG", (200, 100))
    with Image.open(BytesIO(b64decode(pictures[3]))) as image:  # s1, picture C
        assert image.getpixel((50, 50)) == pytest.approx((40, 150, 0), abs=6)
    assert "<script" not in page and "http:" not in page and "https:" not in page
    assert "default-src 'none'" in page
    assert page.index("right → wrong: 1") < page.index("s1") < page.index("wrong → right: 2") < page.index("s2")
    assert "placement layout" in page
    assert "I observed &lt;A&gt; normal: seen" in page
    assert page.count("named before and after") == 1  # s2: AB before, B after


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    attack = "<script>alert('x')</script><img src=x onerror=\"y\">&amp;!"
    data = make_data(tmp_path / "data", comment=attack)
    lines = [json.loads(line) for line in (data / "samples.jsonl").read_text().splitlines()]
    for number, one in enumerate(lines):
        one["id"] = f"{attack}|{number}\n"
    (data / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    before = make_evaluation(tmp_path / "before", data, [attack] * 5, name=attack)
    after = make_evaluation(tmp_path / "after", data, [think(label, attack) for label in LABELS])
    assert compare(before, after, tmp_path / "out", data) == 0
    page = (tmp_path / "out" / "flips.html").read_text()
    assert page.count("<article") == 5
    assert "<script" not in page and "<img src=x" not in page and 'onerror="' not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&lt;img src=x onerror=&quot;y&quot;&gt;&amp;amp;!" in page
    rows = [line for line in (tmp_path / "out" / "comparison.md").read_text().splitlines() if "alert" in line]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 7 for row in rows if row.startswith("|"))


def test_a_page_of_many_flips_shows_the_first_of_each_direction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Path, after: Path, data: Path
) -> None:
    monkeypatch.setattr(flips_page, "SHOWN", 1)
    assert compare(before, after, tmp_path / "out", data) == 0
    page = (tmp_path / "out" / "flips.html").read_text()
    assert page.count("<article") == 2
    assert page.count("The first 1 are shown") == 1


def test_without_the_data_there_are_no_dimensions_and_no_pictures(tmp_path: Path, before: Path, after: Path) -> None:
    assert compare(before, after, tmp_path / "out") == 0
    found = result(tmp_path / "out")
    assert found["dimensions"] is None
    assert [flip["dimensions"] for flip in found["flips"]] == [None] * 3
    assert found["overall"]["difference"] == 20
    page = (tmp_path / "out" / "flips.html").read_text()
    assert page.count("<article") == 3 and "<img" not in page
    assert "dimensions of the samples are unknown" in (tmp_path / "out" / "comparison.md").read_text()


def test_direct_answers_are_compared_too(tmp_path: Path, data: Path) -> None:
    before = make_evaluation(tmp_path / "before", data, ["A", "A", "B", "E", "D"], name="old", mode=Mode.DIRECT)
    after = make_evaluation(tmp_path / "after", data, ["A", "N", "B", "AB", "D"], name="new", mode=Mode.DIRECT)
    assert compare(before, after, tmp_path / "out", data) == 0
    assert [(flip["id"], flip["before"]["unreadable"]) for flip in result(tmp_path / "out")["flips"]] == [
        ("s1", None),
        ("s3", "unknown_option"),
    ]


def test_limited_evaluations_are_compared_on_their_common_samples(tmp_path: Path, data: Path) -> None:
    right, wrong = [think(label) for label in LABELS], [think(WRONG[label]) for label in LABELS]
    before = make_evaluation(tmp_path / "before", data, wrong, name="old", limit=3)  # the log has all five answers
    after = make_evaluation(tmp_path / "after", data, right[:3], name="new", limit=3)
    for named, out in ((data, tmp_path / "one"), (None, tmp_path / "two")):
        assert compare(before, after, out, named) == 0
        assert (result(out)["overall"]["n"], len(result(out)["flips"])) == (3, 3)
    assert "3 samples (the first of 5)" in (tmp_path / "one" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": Mode.DIRECT}, "differ in their mode (cot and direct)"),
        ({"limit": 4}, "differ in their number of samples (5 and 4)"),
    ],
)
def test_evaluations_with_different_settings_are_refused(
    tmp_path: Path,
    before: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    other = make_evaluation(tmp_path / "other", data, [think(label) for label in LABELS], **changes)
    assert compare(before, other, tmp_path / "out", data) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluations_of_other_data_are_refused(
    tmp_path: Path, before: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "other-data", comment="another word")
    other = make_evaluation(tmp_path / "other", data, [think(label) for label in LABELS])
    assert compare(before, other, tmp_path / "out") == 2
    assert "differ in their data (sha256:" in capsys.readouterr().err


def test_other_data_than_the_evaluations_is_refused(
    tmp_path: Path, before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_data(tmp_path / "other", ("A", "B", "C", "D", "N"))
    assert compare(before, after, tmp_path / "out", other) == 2
    assert "but the evaluations are of sha256:" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 3, -30])
def test_an_incomplete_log_is_refused(
    tmp_path: Path, before: Path, after: Path, data: Path, capsys: pytest.CaptureFixture[str], keep: int
) -> None:
    log = after / "predictions.jsonl"
    text = log.read_text()
    log.write_text(text[:keep] if keep < 0 else "".join(text.splitlines(keepends=True)[:keep]))
    for named in (data, None):
        assert compare(before, after, tmp_path / "out", named) == 2
        assert "is not the log from which the scores were computed" in capsys.readouterr().err


def test_a_log_with_other_answers_than_the_scores_is_refused(
    tmp_path: Path, before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = after / "predictions.jsonl"
    log.write_text(log.read_text().replace('"options":"B"', '"options":"C"'))
    assert compare(before, after, tmp_path / "out") == 2
    assert "is not the log from which the scores were computed" in capsys.readouterr().err
    log.write_text("{}\n")
    assert compare(before, after, tmp_path / "out") == 2
    assert "predictions.jsonl, line 1 is damaged or not a prediction of this version" in capsys.readouterr().err


def test_an_evaluation_that_did_not_end_is_refused(
    tmp_path: Path, before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (after / "scores.json").unlink()
    assert compare(before, after, tmp_path / "out") == 2
    assert "Run `trainer evaluate` to its end" in capsys.readouterr().err
    assert compare(tmp_path / "nowhere", after, tmp_path / "out") == 2


def test_a_damaged_picture_is_named(
    tmp_path: Path, before: Path, after: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = data / "pictures" / "s2" / "b.png"
    picture.write_bytes(b"no picture")
    digest = data_digest(data, read_samples(data), check=False)
    for directory in (before, after):
        scores = json.loads((directory / "scores.json").read_text())
        scores["data"]["digest"] = digest
        (directory / "scores.json").write_text(json.dumps(scores))
    assert compare(before, after, tmp_path / "out", data) == 2
    assert "b.png, sample s2:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_same_command_may_run_again_and_another_comparison_is_refused(
    tmp_path: Path, before: Path, after: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert compare(before, after, out, data) == 0
    once = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "comparison.md").unlink()
    assert compare(before, after, out, data) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == once
    assert compare(after, before, out, data) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    assert compare(before, after, before, data) == 2
    assert "holds other files" in capsys.readouterr().err
    assert not (before / "run.json").exists()


def test_without_matplotlib_the_plot_is_left_out_with_a_message(
    tmp_path: Path,
    before: Path,
    after: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    out = tmp_path / "out"
    out.mkdir()
    assert compare(before, after, out, data) == 0
    assert "comparison.png is left out" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.md", "flips.html", "run.json"]


def test_the_plot_is_a_picture(tmp_path: Path, before: Path, after: Path, data: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib, which is optional")
    assert compare(before, after, tmp_path / "out", data) == 0
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        colours = image.convert("RGB").getcolors(1 << 24)
        assert colours is not None and len(colours) > 20  # the plot is not empty
    assert compare(before, after, tmp_path / "alone") == 0
    assert (tmp_path / "alone" / "comparison.png").exists()
    assert not list((tmp_path / "out").glob(".*"))
