"""`python -m trainer card`: writes a checkpoint's scores into its manifest and into a model card (`README.md`).

Neither changes the checkpoint's digest, which covers only what decides an answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.errors import UserError
from screening.runtime.atomic_write import write_atomically

if TYPE_CHECKING:
    from screening.checkpoint.manifest import ImageContract, Manifest
    from trainer.evaluation.evaluate.result import Evaluation


class CardError(UserError):
    """The evaluations are of another checkpoint, incomplete, or on data that was used for training or calibration."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR", help="checkpoint that gets the scores and the card"
    )
    parser.add_argument(
        "--evaluations",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="directories that `trainer evaluate` wrote for this checkpoint: one per mode, and one with --locate",
    )


def run(args: argparse.Namespace) -> int:
    write_card(args.checkpoint, args.evaluations)
    return 0


def write_card(checkpoint: Path, evaluations: Sequence[Path]) -> None:
    """Write the scores of the evaluations into the manifest, and write the card.

    Raises:
        CardError: an evaluation is of another checkpoint, of a part of the samples, or on data that was used for
            training, validation or calibration; or two are of the same mode.
        CheckpointError, EvaluationError: a directory cannot be read.
    """
    from screening.checkpoint.manifest import CARD_NAME, store_manifest, verify
    from trainer.evaluation.evaluate.result import read_evaluation

    manifest = verify(checkpoint)
    results = [read_evaluation(directory) for directory in evaluations]
    for directory, result in zip(evaluations, results, strict=True):
        if result.model.digest != manifest.digest:
            raise CardError(f"{directory} is an evaluation of {result.model.digest}, not of {manifest.digest}")
        if result.data.digest in manifest.trained_on:
            raise CardError(f"{directory} is an evaluation on data that the checkpoint was trained on")
        if result.data.digest in manifest.selected_on:
            raise CardError(f"{directory} is an evaluation on data by which the checkpoint's weights were chosen")
        if result.data.digest in manifest.calibrated_on:
            raise CardError(
                f"{directory} is an evaluation on data that the checkpoint's confidence or its domain was fitted on"
            )
        if result.data.evaluated < result.data.samples:
            raise CardError(f"{directory} is an evaluation of a part of the samples. Run it without --limit")
    if len({result.asked for result in results}) < len(results):
        raise CardError("two evaluations are of the same mode. Give one per mode")
    scores = {"locate" if result.locate else result.mode.value: summary(result) for result in results}
    manifest = manifest.model_copy(update={"scores": scores})
    store_manifest(manifest, checkpoint)
    write_atomically(checkpoint / CARD_NAME, card(manifest, results))


def summary(result: Evaluation) -> dict[str, Any]:
    """The scores that the manifest keeps: percentages with 95 % intervals."""
    scores = result.scores
    return {
        "overall": scores.overall.model_dump(mode="json"),
        "dimensions": {name.value: score.model_dump(mode="json") for name, score in scores.dimensions.items()},
        "choice": scores.choice.model_dump(mode="json"),
        "unreadable": scores.unreadable.model_dump(mode="json"),
        **({"locating": result.locating.model_dump(mode="json")} if result.locating else {}),
        "data": result.data.model_dump(mode="json"),
        "evaluated": result.created,
    }


def _size(image: ImageContract) -> str:
    pixels = f"{image.size} x {image.size} pixels"
    return pixels if image.max_patches == 1 else f"at most {image.max_patches} tiles of {pixels}"


def _tokens(image: ImageContract) -> str:
    if image.max_patches == 1:
        return f"{image.tokens_per_picture} tokens each"
    return f"with a thumbnail at most {image.most_tokens} tokens each"


def card(manifest: Manifest, results: Sequence[Evaluation]) -> str:
    """The model card as Markdown."""
    from trainer.evaluation.evaluate.report import render

    recipe = manifest.recipe
    stages = "\n".join(f"- `{name}`{_facts(value)}" for name, value in manifest.data.items())
    scores = _demote("\n".join(render(result) for result in results))
    origin = f"`{manifest.base}`" if manifest.base else "random weights; nothing was downloaded"
    return f"""\
# {manifest.name} {manifest.version}

An InternVL (`InternVLForConditionalGeneration`) that screens generated product pictures. It reads one original and
four generated pictures, and answers with its reasoning and the letters of the usable pictures.

Written by `python -m trainer card`.

| | |
|---|---|
| starts from | {origin} |
| pictures | {_size(manifest.image)}, {_tokens(manifest.image)} |
| prompt | `{manifest.prompt.version}` |
| decoding | {manifest.decoding.mode}, at most {manifest.decoding.max_tokens_cot} tokens{_located(manifest)} |
| recipe | `{recipe.get("name", "?")}`, complete in `screening.json` |
| digest | `{manifest.digest}` |

## Intended use and limits

{_domain(manifest)}Every picture is scaled to {_size(manifest.image)}, so the
model cannot see a defect that is smaller than one pixel of the scaled picture.

## Trained on

{stages}
{_licences(manifest)}
## Scores

{_unseen(results)}

{scores}"""


def _unseen(results: Sequence[Evaluation]) -> str:
    if all(result.data.frozen for result in results):
        return (
            "Measured on the frozen test set of a division. It shares no product and no picture with the other parts."
        )
    return (
        "Measured on data directories that were used neither for training nor for calibration. They are not a frozen "
        "test set of `trainer split`, so single samples of them may have been."
    )


def _located(manifest: Manifest) -> str:
    most = manifest.decoding.max_tokens_locate
    return f", with places at most {most}" if most else ""


def _licences(manifest: Manifest) -> str:
    if not manifest.licences:
        return ""
    return (
        f"\nIts training data contain pictures under the licence {', '.join(sorted(manifest.licences))}. "
        "**This licence restricts their use, also for training.** Read its terms before the checkpoint is used "
        "commercially.\n"
    )


def _domain(manifest: Manifest) -> str:
    if manifest.domain is None:
        return (
            "The checkpoint does not describe the pictures that it was trained on, so the service cannot warn about "
            "pictures of another kind.\n"
        )
    return (
        f"It was trained on **{manifest.domain.trained_on}**. Do not rely on its answers about other pictures: the "
        "service marks them and lowers their confidence.\n"
    )


def _facts(value: object) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items())
    return f": {value}" if value else ""


def _demote(markdown: str) -> str:
    """Move headings two levels down, so that the reports fit under the card's own headings."""
    return "\n".join(f"##{line}" if line.startswith("#") else line for line in markdown.splitlines()) + "\n"
