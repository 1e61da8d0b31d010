"""The models that the tables compare. A variant is a recipe, which changes settings and no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from screening.answer import Mode
from screening.runtime.atomic_write import write_atomically
from trainer.training.hard_cases.curriculum import Part

COLD_STARTS: Mapping[str, tuple[str, float, float]] = {
    "none": ("no cold start", 25.85, 23.72),
    "weak": ("weak reasoning", 34.19, 34.83),
    "captions-weak": ("captions and weak reasoning", 34.62, 35.04),
    "answer-driven": ("answer-driven reasoning only", 39.96, 51.07),
    "all": ("all three", 45.94, 53.63),
}
"""Rows of table 5: name → the paper's scores of 1B and 2B."""

NO_COLD_START: Mapping[str, tuple[str, Mode, str]] = {
    "none-direct": ("base model", Mode.DIRECT, "30.13 / 10.68"),
    "none": ("base model", Mode.COT, "25.85 / 23.72"),
    "sft-direct": ("SFT on the answers alone", Mode.DIRECT, "36.75 / 45.94"),
    "grpo": ("GRPO from the base model", Mode.COT, "28.42 / 28.42"),
}
"""Rows of table 4: name → title, mode of the evaluation, and the paper's scores of 1B and 2B."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of table 6 or 7."""

    title: str
    reward: str
    last_parts: tuple[Part, ...]
    paper: Mapping[int, str]
    """The paper's scores by table: 1B and 2B in table 6, 2B in table 7."""

    @property
    def shares_beginning(self) -> bool:
        """Whether its first epochs are the same as those of the other variants with the same reward."""
        return self.reward == "dpa"


VARIANTS: Mapping[str, Variant] = {
    "grpo": Variant("GRPO", "exact", ("all",), {6: "53.85 / 58.55"}),
    "dpa-grpo": Variant("DPA-GRPO: all", "dpa", ("all",), {6: "55.56 / 59.83", 7: "59.83"}),
    "hcm-grpo": Variant("HCM-GRPO: all + hard", "dpa", ("all", "hard"), {6: "57.48 / 64.74", 7: "64.74"}),
    "hard-only": Variant("hard only", "dpa", ("hard",), {7: "58.76"}),
    "easy-only": Variant("easy only", "dpa", ("easy",), {7: "59.40"}),
    "all-random": Variant("all + random", "dpa", ("all", "random"), {7: "60.90"}),
}
"""The variants in the order of table 6 and then of table 7."""


def of_table(number: int) -> Iterator[tuple[str, Variant]]:
    """The variants that a table compares."""
    return ((name, variant) for name, variant in VARIANTS.items() if number in variant.paper)


def paper_start(cold_start: str, table: int) -> str:
    """The paper's score of the start of stage 2, as that table shows it."""
    _, small, large = COLD_STARTS[cold_start]
    return f"{small:.2f} / {large:.2f}" if table == 6 else f"{large:.2f}"


def write_recipe(path: Path, extends: str, **sections: Mapping[str, Any]) -> Path:
    """Write a recipe that changes a few settings of another. An equal file is kept, because tasks may be reading it.

    Args:
        extends: name or path of a recipe.
        sections: changed settings by section, as in YAML.
    """
    parent = str(Path(extends).resolve()) if Path(extends).suffix else extends
    text = yaml.safe_dump({"extends": parent, **{name: dict(settings) for name, settings in sections.items()}})
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
    return path
