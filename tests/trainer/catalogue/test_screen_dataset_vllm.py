"""`screen-dataset` with the real engine: its answers equal those of `evaluate` for the same questions."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_the_answers_equal_those_of_an_evaluation(answered_data):
    lines = (answered_data.evaluation / "predictions.jsonl").read_text().splitlines()
    expected = {line["id"]: line for line in map(json.loads, lines)}
    assert f"{len(expected)} of {len(expected)} records answered" in answered_data.screen_dataset_printed
    (part,) = (answered_data.screening / "answers").glob("*.parquet")
    answers = {row["id"]: row for row in pq.read_table(part).to_pylist()}
    assert answers.keys() == expected.keys()
    for identifier, one in expected.items():
        row = answers[identifier]
        assert row["choice"] == one["choice"]
        assert "".join(row["acceptable"]) == one["options"].replace("N", "")
        assert row["confidence"] == pytest.approx(one["confidence"], abs=0.02)
        assert row["domain_score"] == pytest.approx(one["domain_score"], abs=0.02)
        assert f"<think>{row['reasoning']}</think>" in one["text"]
        stated = {finding["option"]: sorted(finding["dimensions"]) for finding in one["findings"]}
        assert {verdict["option"]: verdict["issues"] for verdict in row["options"]} == stated
