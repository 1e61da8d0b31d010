"""Pages and charts without a browser."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from service.review_page import pages
from service.review_page.charts import Estimate, Row, column_chart, interval_chart
from tests.service.review_page.fake_review import STATS

EVIL = "<script>alert(1)</script>"
VISITOR = pages.Visitor(EVIL, signed_in=True)


def charts(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg viewBox.*?</svg>", page, re.DOTALL)]


def test_names_are_escaped_on_every_page():
    review = pages.ListedReview("id", datetime.now(UTC), [1], None, corrects=False, superseded=True, late=True)
    throughput = [{"day": "2026-11-10", "reviewer": EVIL, "reviews": 1, "median_active_seconds": 2.0}]
    stats = STATS | {"throughput": throughput, "gold": [{"reviewer": EVIL, "answered": 1, "right": 1}]}
    shown = [
        pages.overview_page(VISITOR, {"review": 0, "label": 0}, {EVIL: STATS["queue"]["gold"]}, [review]),
        pages.station_page(VISITOR, None),
        pages.statistics_page(VISITOR, stats, None, None),
    ]
    for page in shown:
        assert EVIL not in page and "&lt;script&gt;" in page


def test_only_the_last_review_of_a_task_has_a_link():
    now = datetime.now(UTC)
    old = pages.ListedReview("old", now, [1], None, corrects=False, superseded=True, late=False)
    new = pages.ListedReview("new", now, [2], None, corrects=True, superseded=False, late=False)
    page = pages.overview_page(VISITOR, {"review": 0, "label": 0}, {}, [new, old])
    assert "corrected later" in page
    assert re.findall(r"station\?review=(\w+)", page) == ["new"]


def test_an_interval_is_drawn_where_its_ends_are():
    rows = [Row("usable", "9 pairs", (Estimate(0.5, (0.25, 0.75)), Estimate(None)))]
    svg = ElementTree.fromstring(interval_chart("t", rows, names=("a", "b"), percent=True))
    grid = [float(line.get("x1")) for line in svg.iter("line") if line.get("class") == "grid"]
    zero, one = grid[0], grid[-1]
    (bar,) = [line for line in svg.iter("line") if "interval" in line.get("class")]
    assert float(bar.get("x1")) == pytest.approx(zero + 0.25 * (one - zero), abs=0.2)
    assert float(bar.get("x2")) == pytest.approx(zero + 0.75 * (one - zero), abs=0.2)
    dots = [circle for circle in svg.iter("circle") if float(circle.get("cy")) > 20]
    assert len(dots) == 1


def test_columns_are_as_high_as_their_counts():
    svg = ElementTree.fromstring(column_chart("t", [("one", 10), ("two", 40)]))
    heights = [float(column.get("height")) for column in svg.iter("rect")]
    assert heights[1] == pytest.approx(4 * heights[0])


def test_statistics_show_every_section_and_its_numbers():
    page = pages.statistics_page(VISITOR, STATS, "2026-11-01", "")
    assert len(charts(page)) == 4
    assert 'value="2026-11-01"' in page
    assert "0.81 (0.75 to 0.86)" in page and "78 % (71 % to 84 %)" in page


def test_statistics_without_data_say_so():
    nothing = {"agreement": [], "model": {"reviewed": 0, "accuracy": None, "unweighted": None}, "throughput": []}
    page = pages.statistics_page(VISITOR, nothing | {"gold": None}, None, None)
    assert charts(page) == []
    assert page.count("There are no reviews in this period.") == 2
    assert "Questions with a known answer" not in page


def test_an_axis_reaches_below_zero_where_an_estimate_does():
    page = pages.statistics_page(VISITOR, STATS, None, None)
    assert "-0.20" in "".join(charts(page)[0].itertext())


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")]
)
def test_a_duration_is_written_for_people(seconds, text):
    assert pages.duration(seconds) == text
