"""The page of a comparison: pictures of changed answers, the plot, and no foreign HTML."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.evaluation.compare.evaluations import LABELS, compare, make_data, make_evaluation, think
from trainer.evaluation.compare import flips_page

pytestmark = pytest.mark.slow


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


def test_the_plot_is_a_picture(tmp_path: Path, before: Path, after: Path, data: Path) -> None:
    assert compare(before, after, tmp_path / "out", data) == 0
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        colours = image.convert("RGB").getcolors(1 << 24)
        assert colours is not None and len(colours) > 20  # the plot is not empty
    assert compare(before, after, tmp_path / "alone") == 0
    assert (tmp_path / "alone" / "comparison.png").exists()
    assert not list((tmp_path / "out").glob(".*"))
