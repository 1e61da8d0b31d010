"""`python -m trainer compose`: four generated pictures of each product photo (paper, section 3.1)."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from screening.runtime.argument_types import amount, not_negative, positive
from screening.runtime.exits import UNFINISHED
from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.data.compose.run import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser, "--products", "directory of product photos, or of folders with the photos of one product")
    add_directory(parser, "--references", "directory of background pictures that the scenes follow")
    add_directory(parser, "--out", "new data directory, or one to continue")
    parser.add_argument(
        "--seed", type=not_negative, required=True, help="seed of the run, at least 0; the same seed paints the same"
    )
    parser.add_argument("--size", type=positive, default=768, help="side of the pictures in pixels (default: 768)")
    parser.add_argument(
        "--layout",
        choices=("auto", "top-bottom", "left-right"),
        default="auto",
        help="product in the lower part, or in the left or right half; auto chooses at random (default: auto)",
    )
    parser.add_argument(
        "--segmenter",
        default="auto",
        metavar="NAME",
        help="auto, alpha (transparent files), backdrop (plain background), onnx:FILE, or package.module:name; "
        "auto is alpha for transparent files, else backdrop (default: auto)",
    )
    parser.add_argument(
        "--inpainter",
        default="scene",
        metavar="NAME",
        help="scene (a stand-in without a model), flux-fill, klein, or package.module:name (default: scene)",
    )
    parser.add_argument(
        "--paste",
        choices=("on", "off"),
        default="off",
        help="on puts the product's own pixels back, for pictures that a shop shows; off keeps the errors of the "
        "model, from which a screening model learns (default: off)",
    )
    _model_arguments(parser)


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model (flux-fill and klein)")
    add_directory(model, "--weights", "folder of FLUX.1-Fill or FLUX.2-klein; safetensors only", required=False)
    add_directory(model, "--redux", "folder of FLUX.1-Redux, for flux-fill", required=False)
    model.add_argument("--steps", type=positive, metavar="N", help="denoising steps (default: 50; klein: 4)")
    model.add_argument("--guidance", type=amount, metavar="G", help="guidance scale (default: 30; klein: 1)")
    model.add_argument("--prompt", metavar="TEXT", help="text for klein (default: asks for a plain product photo)")
    model.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is a GPU)")
    model.add_argument(
        "--offload",
        action="store_true",
        help="keep only the computing part of the model on the GPU: slower, less memory",
    )
    model.add_argument(
        "--accept-licence",
        action="append",
        default=[],
        metavar="NAME",
        help="accept the terms of a licence that restricts use; the refusal names it (repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    from trainer.data.compose.model_options import ModelOptions
    from trainer.data.compose.order import Order
    from trainer.data.compose.run import compose

    order = Order(
        products=args.products,
        references=args.references,
        out=args.out,
        seed=args.seed,
        side=args.size,
        layout=args.layout,
        segmenter=args.segmenter,
        inpainter=args.inpainter,
        paste=args.paste == "on",
        model=ModelOptions(
            weights=args.weights,
            redux=args.redux,
            steps=args.steps,
            guidance=args.guidance,
            prompt=args.prompt,
            device=args.device,
            offload=args.offload,
        ),
        accepted=frozenset(args.accept_licence),
    )
    result = compose(order)
    print(_report(result, args.out))
    return 0 if result.complete else UNFINISHED


def _report(result: Result, out: Path) -> str:
    from trainer.data.compose.run import FAILURES, PAGE

    lines = [f"{out}: {len(result.samples)} samples without labels, painted by {result.tools.maker}; see {PAGE}"]
    if notes := Counter(note for sample in result.samples for note in sample.notes):
        lines.append("look at: " + ", ".join(f"{count} x {note}" for note, count in sorted(notes.items())))
    if result.left:
        counted = Counter(one.error.reason for one in result.left)
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(counted.items()))
        lines.append(f"left out: {len(result.left)} ({reasons}); see {FAILURES}. The same command tries them again")
    licence = result.tools.inpainter.licence
    if licence.restricted:
        lines.append(f"licence of the pictures: {licence.name}. {licence.restricted}")
    return "\n".join(lines)
