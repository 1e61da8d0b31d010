"""Arrival times of the load patterns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.fleet.patterns import RecordingError, arrivals, recorded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "shares"),
    [
        ("constant", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("ramp", [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12]),
        ("spike", [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
        ("daily", [0.087, 0.5, 0.913, 0.913, 0.5, 0.087]),
    ],
)
def test_the_load_lies_between_the_rate_and_the_peak(pattern: str, shares: list[float]) -> None:
    moments = list(arrivals(pattern, rate=10, peak=40, seconds=6000, seed=1))
    assert moments == sorted(moments) and moments[-1] < 6000
    for sixth, share in enumerate(shares):
        rate = sum(1000 * sixth <= moment < 1000 * (sixth + 1) for moment in moments) / 1000
        assert rate == pytest.approx(10 + 30 * share, rel=0.05)


def test_recorded_requests_are_sent_at_their_planned_times(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps({"intended": moment, "sent": 99}) + "\n" for moment in (12.5, 10.0, 11.0)))
    assert recorded(path) == [0.0, 1.0, 2.5]


@pytest.mark.parametrize(
    ("text", "message"), [("", "no requests"), ('{"intended": 1}\n{"sent": 1}\n', "line 2"), ("[]\n", "line 1")]
)
def test_a_file_without_planned_times_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(text)
    with pytest.raises(RecordingError, match=message):
        recorded(path)


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no-such-file"):
        recorded(tmp_path / "no-such-file")
