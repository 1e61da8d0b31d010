"""`screen-dataset` with the real engine: its answers equal those of `evaluate` for the same questions."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tests.trainer.command_line import CHECKPOINT, trainer

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_the_answers_equal_those_of_an_evaluation(rendered_data, evaluated_data, tmp_path):
    scores, _ = evaluated_data
    lines = (scores / "predictions.jsonl").read_text().splitlines()
    expected = {line["id"]: line for line in map(json.loads, lines)}
    out = tmp_path / "out"
    printed = trainer(
        "screen-dataset", "--checkpoint", CHECKPOINT, "--data", rendered_data, "--out", out, "--workers", "local"
    )
    assert f"{len(expected)} of {len(expected)} records answered" in printed
    (part,) = (out / "answers").glob("*.parquet")
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
