"""Answers about pictures unlike those that the checkpoint was trained on: flagged, capped, counted, and checked by the
probes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from screening.checkpoint.domain import DomainProbe
from screening.checkpoint.manifest import Manifest, read_manifest
from screening.checkpoint.probes import probe_pictures
from screening.errors import CheckpointError
from service.checkpoints.verification import verify_domain
from service.engines.scripted_engine import ScriptedEngine, domain_score
from tests.screening.checkpoint.test_domain import make_domain
from tests.service.obedient_engine import change_manifest, make_checkpoint

pytestmark = pytest.mark.anyio

CAP = 0.35
"""Of the scripted engine."""


def strange(format: str = "JPEG") -> bytes:
    """A picture out of the scripted engine's domain."""
    out = io.BytesIO()
    Image.new("RGB", (200, 160), (255, 0, 255)).save(out, format)
    return out.getvalue()


def with_strange(sample: Any, *places: int) -> list[tuple[str, tuple[str, bytes, str]]]:
    files = sample.files()
    for place in places:
        files[place] = (files[place][0], ("strange.jpg", strange(), "image/jpeg"))
    return files


@pytest.mark.parametrize("mode", ["cot", "direct"])
@pytest.mark.parametrize(
    ("places", "named"),
    [
        ((0,), ["original"]),
        ((2,), ["B"]),
        ((0, 4), ["original", "D"]),
        ((0, 1, 2, 3, 4), ["original", "A", "B", "C", "D"]),
    ],
)
async def test_one_strange_picture_is_enough_and_is_named(start, sample, mode, places, named) -> None:
    async with start() as running:
        files = with_strange(sample, *places)
        answer = (await running.client.post("/screen", files=files, data={"mode": mode})).json()
        assert running.metric("screening_out_of_domain_total", code="out-of-domain") == 1
        assert running.metric("screening_needs_review_total") == 1
    (warning,) = answer["warnings"]
    assert (warning["code"], warning["pictures"], warning["score"]) == ("out-of-domain", named, 2.0)
    assert all(name in warning["detail"] for name in named) and "not magenta" in warning["detail"]
    assert answer["needs_review"] is True and answer["confidence"] <= CAP
    assert answer["outcome"] == "answered" and answer["choice"] is not None


@pytest.mark.slow
async def test_the_confidence_is_capped_and_not_replaced(start, make_sample) -> None:
    """Independently of `review_below`: 0 would otherwise let every answer pass."""
    confidences = []
    async with start(review_below=0.0) as running:
        for seed in range(12):
            normal = (await running.client.post("/screen", files=make_sample(seed).files())).json()
            assert normal["warnings"] == [] and normal["needs_review"] is False
            flagged = (await running.client.post("/screen", files=with_strange(make_sample(seed), 3))).json()
            assert flagged["needs_review"] is True and flagged["confidence"] <= CAP
            confidences.append((normal["confidence"], flagged["confidence"]))
        assert running.metric("screening_out_of_domain_total", code="out-of-domain") == 12
    assert any(normal > CAP for normal, _ in confidences)


async def test_ordinary_pictures_have_no_warning(start, sample) -> None:
    async with start() as running:
        answer = (await running.client.post("/screen", files=sample.files())).json()
        assert running.metric("screening_domain_score_count") == 1
    assert answer["warnings"] == []


async def test_the_log_line_has_the_codes_of_the_warnings(start, sample, caplog) -> None:
    caplog.set_level("INFO")
    async with start() as running:
        await running.client.post("/screen", files=sample.files())
        await running.client.post("/screen", files=with_strange(sample, 2))
    lines = [record.fields for record in caplog.records if record.message == "request"]
    assert [line["warnings"] for line in lines] == [[], ["out-of-domain"]]


async def test_an_unreadable_answer_keeps_its_warning(start, sample) -> None:
    async with start(ScriptedEngine(latency_ms=0, failure="unreadable")) as running:
        answer = (await running.client.post("/screen", files=with_strange(sample, 1))).json()
    assert (answer["outcome"], answer["confidence"]) == ("unreadable", 0)
    assert answer["warnings"][0]["pictures"] == ["A"]


async def test_a_replayed_answer_keeps_its_warning(start, sample) -> None:
    async with start() as running:
        files, key = with_strange(sample, 2), {"Idempotency-Key": "k"}
        first = (await running.client.post("/screen", files=files, headers=key)).json()
        cached = (await running.client.post("/screen", files=files)).json()
        replayed = await running.client.post("/screen", files=files, headers=key)
        assert running.metric("screening_out_of_domain_total", code="out-of-domain") == 1
    assert cached["source"] == "cache" and replayed.headers["idempotent-replayed"] == "true"
    for again in (cached, replayed.json()):
        assert again["warnings"] == first["warnings"] != []
        assert (again["confidence"], again["needs_review"]) == (first["confidence"], True)


class Forgetful(ScriptedEngine):
    """Cannot say what its pictures are like."""

    async def domain_scores(self, _pictures: Any, /) -> None:
        return None


async def test_an_answer_with_an_unknown_score_says_so_and_goes_to_review(start, sample) -> None:
    async with start(Forgetful(latency_ms=0)) as running:
        answer = (await running.client.post("/screen", files=sample.files())).json()
        assert running.metric("screening_out_of_domain_total", code="domain-unknown") == 1
    (warning,) = answer["warnings"]
    assert (warning["code"], warning["score"]) == ("domain-unknown", None)
    assert answer["needs_review"] is True and answer["confidence"] <= CAP


def give_domain(directory: Path, *, off: float = 0.0, probes: bool = True) -> Manifest:
    """Put a domain into a checkpoint's manifest, with the scripted engine's scores as probes, or others."""
    manifest = read_manifest(directory)
    scores = tuple(domain_score(picture) + off for picture in probe_pictures(0, manifest.image.size))
    recorded = (DomainProbe(seed=0, scores=scores),) if probes else ()
    change_manifest(directory, domain=make_domain(probes=recorded))
    return read_manifest(directory)


async def test_a_checkpoint_without_a_domain_is_served_without_a_score(serve, sample, caplog) -> None:
    caplog.set_level("INFO")
    async with serve() as running:
        answer = (await running.client.post("/screen", files=with_strange(sample, 0, 1))).json()
    assert answer["warnings"] == []
    assert any("without a domain" in record.message for record in caplog.records)


async def test_a_swap_brings_the_domain_and_takes_it_away(serve, sample, store) -> None:
    give_domain(store / "two")
    files = with_strange(sample, 2)
    async with serve() as running:
        before = (await running.client.post("/screen", files=files)).json()
        assert (await running.take_up("two")).status_code == 200
        after = (await running.client.post("/screen", files=files)).json()
        assert (await running.take_up("one")).status_code == 200
        again = (await running.client.post("/screen", files=files)).json()
    assert before["warnings"] == again["warnings"] == []
    assert after["warnings"][0]["pictures"] == ["B"] and "rendered product pictures" in after["warnings"][0]["detail"]


@pytest.mark.parametrize("broken", [{"off": 0.5}, {"probes": False}], ids=["other scores", "no probes"])
async def test_a_checkpoint_whose_score_is_broken_is_refused_and_the_old_one_stays(
    serve, store, sample, broken
) -> None:
    give_domain(store / "two", **broken)
    async with serve() as running:
        refused = await running.take_up("two")
        assert refused.status_code == 409 and "domain" in refused.json()["detail"]
        assert await running.version() == "1"
        assert (await running.client.post("/screen", files=sample.files())).status_code == 200


class Off(ScriptedEngine):
    """Gives scores that differ from the recorded ones by as much as a test sets."""

    off = 0.0

    async def domain_scores(self, pictures: Any, /) -> tuple[float, ...] | None:
        found = await super().domain_scores(pictures)
        return found and tuple(score + self.off for score in found)


@pytest.mark.parametrize("off", [0.0, 0.05, -0.05])
async def test_scores_within_the_tolerance_prove_a_domain(tmp_path, off) -> None:
    engine = Off()
    engine.off = off
    await verify_domain(engine, give_domain(make_checkpoint(tmp_path / "one", 1)))


@pytest.mark.parametrize("engine", [Forgetful(), Off()], ids=["no scores", "not finite"])
async def test_scores_that_are_missing_or_not_finite_prove_nothing(tmp_path, engine) -> None:
    engine.off = float("nan")
    with pytest.raises(CheckpointError, match="domain's scores"):
        await verify_domain(engine, give_domain(make_checkpoint(tmp_path / "one", 1)))
