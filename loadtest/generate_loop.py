"""transformers' `generate` on the benchmark's questions, one after the other: run by `peers` in a process of its own.

Pictures are decoded and brought to the model's size as the service does it, which is faster than transformers' own way.
Both bfloat16 and float32 are tried, because which is faster depends on the processor; the faster one is measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from loadtest.pictures import Pictures, Question
from screening.answer import Mode
from screening.checkpoint import Manifest, read_manifest
from screening.generation import prompt_text
from screening.images import load_square

QUESTIONS = 16
TRIAL = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line of JSON: latencies in milliseconds, and the settings."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.generate_loop", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--picture-size", type=int, default=800)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    args = parser.parse_args(argv)
    questions = Pictures(products=10, sizes=[(args.picture_size, args.picture_size)]).questions()
    manifest = read_manifest(args.checkpoint)
    import torch

    models = {str(dtype): _loaded(args.checkpoint, manifest, dtype) for dtype in (torch.bfloat16, torch.float32)}
    for answer in models.values():
        answer(next(questions))  # the first one is always slow
    trial = list(islice(questions, TRIAL))
    faster = min(models, key=lambda dtype: sum(_milliseconds(models[dtype], trial)))
    found = _milliseconds(models[faster], list(islice(questions, args.questions)))
    device = "cuda" if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(json.dumps({"latencies_ms": found, "settings": f"greedy, key-value cache, {faster}, {device}"}))


def _milliseconds(answer: Callable[[Question], str], questions: Sequence[Question]) -> list[float]:
    found = []
    for question in questions:
        began = time.perf_counter()
        answer(question)
        found.append(1000 * (time.perf_counter() - began))
    return found


def _loaded(checkpoint: Path, manifest: Manifest, dtype: Any) -> Callable[[Question], str]:
    """A function from a question to the model's text."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    prompt = prompt_text(processor.tokenizer, manifest.prompt, Mode.COT)

    def answer(question: Question) -> str:
        pictures = [load_square(data, manifest.image.size) for data in (question.original, *question.generated)]
        inputs = processor(text=[prompt], images=[pictures], return_tensors="pt").to(device, dtype)
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=manifest.decoding.max_tokens_cot)
        text: str = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    return answer


if __name__ == "__main__":
    main()
