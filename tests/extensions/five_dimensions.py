"""Uses a fifth dimension, an engine, a reward and a metric; run by test_extensions.py on a copy of the code.

    python five_dimensions.py DIRECTORY

The last line of the output is a JSON object with what was found.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

import screening
from screening.answer import Finding, Mode, compose, render
from screening.checkpoint.manifest import ImageContract, read_manifest
from screening.checkpoint.probes import probe_answers
from screening.prompt import STANDARD
from screening.runtime.extensions import find
from screening.task import DIMENSIONS, Dimension
from service.app import create_app
from service.config.settings import Settings
from service.engines.table import create_engine
from tests.service.conftest import Sample as Question
from tests.service.conftest import draw
from tests.service.obedient_engine import describe
from tests.service.obedient_engine import make_checkpoint as make_served_checkpoint
from tests.trainer.coloured import make_data
from tests.trainer.scripted_engine import Scripted, make_checkpoint
from trainer.data_directory import read_samples
from trainer.evaluation.evaluate.by_checkpoint import evaluate
from trainer.metrics import METRICS
from trainer.records import Sample
from trainer.reward import reward_functions
from trainer.training.recipe.recipe import load_recipe
from trainer.training.sft.rows import dataset, rollout_rows

REPOSITORY = Path(__file__).parents[2]
TEXT = Dimension("text_legibility")
QUESTIONS = 16
"""Enough that the scripted verdicts name every dimension."""


async def screened(settings: Settings, questions: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Answers to POST /screen, and the OpenAPI document."""
    app = create_app(settings, create_engine(settings))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")
    async with app.router.lifespan_context(app), client:
        while (await client.get("/readyz")).status_code != 200:
            assert (await client.get("/livez")).status_code == 200
            await asyncio.sleep(0.01)
        answers = []
        for number in range(questions):
            question = Question(tuple(draw(1000 * number + index) for index in range(5)))
            response = await client.post("/screen", files=question.files())
            assert response.status_code == 200, response.text
            answers.append(response.json())
    return answers, app.openapi()


def served(directory: Path, **fields: Any) -> Settings:
    """A service on a checkpoint with these fields in its manifest."""
    make_served_checkpoint(directory, 1)
    describe(directory, **fields)
    return Settings(engine="tests.service.obedient_engine:make", checkpoint=directory)


def issues(answers: list[dict[str, Any]]) -> list[str]:
    return sorted({issue for answer in answers for option in answer["options"] for issue in option["issues"]})


def data_with_wrong_text(directory: Path) -> Path:
    """The data that other tests use, with a wrong text in every picture that is not usable."""
    file = make_data(directory) / "samples.jsonl"
    file.write_text(file.read_text().replace("physical_shadow", "text_legibility"))
    return directory


def right_answer(sample: Sample, wrong: Mapping[str, frozenset[Dimension]] | None = None) -> str:
    """The label, with the true verdict on each picture except those in `wrong`."""
    verdicts = {picture.option: picture.dimensions for picture in sample.generated} | dict(wrong or {})
    findings = tuple(Finding(option, verdict, "as one can see") for option, verdict in verdicts.items())
    return render(compose(sample.options, findings), Mode.COT)


def evaluated(directory: Path, data: Path) -> dict[str, Any]:
    """A checkpoint of five dimensions that is always right."""
    from screening.checkpoint.manifest import store_manifest

    checkpoint, samples = make_checkpoint(directory / "evaluated"), read_samples(data)
    store_manifest(read_manifest(checkpoint).model_copy(update={"dimensions": DIMENSIONS}), checkpoint)
    name = "shop.metrics:offers_something"
    evaluation = evaluate(
        checkpoint,
        data,
        directory / "evaluation",
        mode=Mode.COT,
        metrics={**METRICS, name: find(name, METRICS, "metric")},
        open_engine=Scripted(lambda number: right_answer(samples[number])),
    )
    report = (directory / "evaluation" / "report.md").read_text()
    return {"scores": evaluation.scores.model_dump(mode="json"), "report": report}


def rewarded(directory: Path, data: Path) -> dict[str, Any]:
    """What the reward of a recipe pays for completions of the first question, by the columns that TRL gets."""
    path = directory / "my-recipe.yaml"
    path.write_text("extends: tiny\nhcm_grpo:\n  reward: shop.rewards:verdicts\n")
    settings, samples = load_recipe(str(path)).hcm_grpo, read_samples(data)
    assert settings is not None
    functions = reward_functions(settings.reward, {sample.id: sample for sample in samples})
    row = dataset(rollout_rows(samples, STANDARD), data, ImageContract(size=32, tokens_per_picture=1))[0]
    first = samples[0]
    texts = {
        "all right": right_answer(first),
        "one picture wrong": right_answer(first, {"B": frozenset({Dimension.SHADOW})}),
        "unreadable": "AC",
    }
    paid = {
        name: [function([text], id=[row["id"]], label=[row["label"]])[0] for function in functions]
        for name, text in texts.items()
    }
    return {"names": [function.__name__ for function in functions], **paid}


def main(directory: Path) -> None:
    directory.mkdir()
    five, openapi = asyncio.run(screened(served(directory / "five", dimensions=DIMENSIONS), QUESTIONS))
    four, _ = asyncio.run(screened(served(directory / "four"), QUESTIONS))
    (own,), _ = asyncio.run(screened(Settings(engine="shop.engine:create"), 1))
    tiny = read_manifest(REPOSITORY / "models" / "tiny")
    data = data_with_wrong_text(directory / "data")
    report = {
        "code": screening.__file__,
        "prompt": STANDARD.model_dump(),
        "documented": openapi["components"]["schemas"]["Dimension"]["enum"],
        "issues": {"five": issues(five), "four": issues(four)},
        "engine": own,
        "tiny": {
            "digest": tiny.digest,
            "dimensions": tiny.dimensions,
            "answers": [answer for _, answer in probe_answers(tiny.dimensions)],
        },
        "reward": rewarded(directory, data),
        **evaluated(directory, data),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
