"""Measure transformers' `generate` on the questions of `bench`; `baselines` runs this in a separate process.

Pictures are decoded and resized as in the service, which is faster than transformers' own preprocessing. bfloat16 and
float32 are tried, each with and without drafts from the prompt (`prompt_lookup_num_tokens`), because the fastest
setting depends on the processor and the answers. The fastest one is measured. A processor without bfloat16
instructions is only tried with float32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from loadtest.load import rendered
from loadtest.load.pictures import Question
from screening.answer import Mode
from screening.checkpoint.manifest import Manifest, read_manifest
from screening.inference.generation import prompt_text
from screening.inference.pictures import load_prepared
from screening.runtime.machine import has_bfloat16

QUESTIONS = 16
TRIAL = 3
NEEDED = QUESTIONS + TRIAL + 1
DRAFTED = 8

Answer = Callable[..., str]
"""Maps a question and further options of `generate` to the model's text."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line of JSON: latencies in milliseconds, and the settings."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.targets.generate_loop", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True, metavar="DIR", help="directory of rendered samples")
    parser.add_argument("--count", type=int, default=QUESTIONS)
    args = parser.parse_args(argv)
    questions = rendered.questions(args.questions)
    manifest = read_manifest(args.checkpoint)
    import torch

    models: dict[str, Answer] = {}
    formats = (torch.bfloat16, torch.float32) if torch.cuda.is_available() or has_bfloat16() else (torch.float32,)
    for dtype in formats:
        plain = _loaded(args.checkpoint, manifest, dtype)
        models[str(dtype)] = plain
        models[f"{dtype}, drafts from the prompt"] = partial(plain, prompt_lookup_num_tokens=DRAFTED)
    first, *trial = islice(questions, 1 + TRIAL)
    for answer in models.values():
        answer(first)  # the first call is always slow
    fastest = min(models, key=lambda name: sum(_milliseconds(models[name], trial)))
    found = _milliseconds(models[fastest], list(islice(questions, args.count)))
    device = "cuda" if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(json.dumps({"latencies_ms": found, "settings": f"greedy, key-value cache, {fastest}, {device}"}))


def _milliseconds(answer: Answer, questions: Sequence[Question]) -> list[float]:
    found = []
    for question in questions:
        began = time.perf_counter()
        answer(question)
        found.append(1000 * (time.perf_counter() - began))
    return found


def _loaded(checkpoint: Path, manifest: Manifest, dtype: Any) -> Answer:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    prompt = prompt_text(processor.tokenizer, manifest.prompt, Mode.COT)

    def answer(question: Question, **more: Any) -> str:
        pictures = [load_prepared(data, manifest.image) for data in (question.original, *question.generated)]
        inputs = processor(text=[prompt], images=[pictures], return_tensors="pt").to(device, dtype)
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=manifest.decoding.max_tokens_cot, **more)
        text: str = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    return answer


if __name__ == "__main__":
    main()
