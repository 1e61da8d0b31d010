"""Prompts of a recipe's own: texts in the recipe, or in a YAML file that the recipe names.

A prompt has two texts: `cot` asks for reasoning and answer, `direct` for the answer alone. Each text says everything
that the model is told: task, requirements, names of the issues, and form of the answer. The five pictures follow it
(`screening.prompt.messages`), so a text has no placeholders.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from screening.errors import UserError
from screening.prompt import PROMPTS, Prompt
from screening.runtime.validation import first_fault
from trainer.yaml_file import YamlError, read_yaml

PROMPT_FILES = Path(__file__).parent / "recipes" / "prompts"
MOST_CHARACTERS = 20_000
"""Maximum length of a text, about 5,000 tokens. `plan`, `import` and `pretrain` compare the question with the model."""

_REFUSED = (
    (r"</?(?i:img|image|video|IMG_CONTEXT)>", "stands for a picture. Remove it: the five pictures follow the text"),
    (r"<\|[^<>|]*\|>|</?(?:s|box|quad|ref)>", "is a special token of chat models. Remove it"),
    (r"\{[A-Za-z_]\w*\}", "is a placeholder, which nothing fills in. Write out the words that it stands for"),
    (r"[\x00-\x08\x0b-\x1f\x7f]", "is a control character. Remove it"),
)
"""What a text must not contain, and why. `import` and `pretrain` also know the special tokens of their tokenizer."""


class PromptError(UserError, ValueError):
    """There is no such prompt, or its file is wrong; the message names the file and the field."""


def _usable(text: str) -> str:
    for pattern, why in _REFUSED:
        if found := re.search(pattern, text):
            raise ValueError(f"{found[0]!r} {why}")
    return text


Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS), AfterValidator(_usable)]


class PromptTexts(BaseModel):
    """The texts of a prompt, without white space at their ends."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    cot: Text
    """Instruction for think-then-answer."""
    direct: Text
    """Instruction for letters only."""

    @model_validator(mode="after")
    def _modes_differ(self) -> Self:
        if self.cot == self.direct:
            raise ValueError("cot and direct are the same text, so the model cannot know which answer is wanted")
        return self

    @property
    def prompt(self) -> Prompt:
        """The prompt as a checkpoint carries it. The version is a digest of the texts, so no two prompts share it."""
        digest = hashlib.sha256(f"{self.cot}\0{self.direct}".encode()).hexdigest()
        return Prompt(version=f"own-{digest[:16]}", cot=self.cot, direct=self.direct)


def load_prompt(name_or_path: str) -> Prompt:
    """Load a built-in prompt by its name, or the prompt of a file; see `load_texts`.

    Raises:
        PromptError: there is no such prompt, or its file is wrong.
    """
    return PROMPTS[name_or_path] if name_or_path in PROMPTS else load_texts(name_or_path).prompt


def load_texts(name_or_path: str, beside: Path = Path()) -> PromptTexts:
    """Read the texts of a YAML file, named by its path or, if it is shipped, by its name (`paper`).

    Args:
        beside: directory to which a path is relative.

    Raises:
        PromptError: there is no such file, or it is wrong.
    """
    path = _find(name_or_path, beside)
    try:
        return PromptTexts.model_validate(read_yaml(path))
    except OSError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror})") from error
    except YamlError as error:
        raise PromptError(str(error)) from error
    except ValidationError as error:
        field, message = first_fault(error)
        raise PromptError(f"{path}, {field or 'the file'}: {message}") from error


def _find(name_or_path: str, beside: Path) -> Path:
    for path in (beside / name_or_path, PROMPT_FILES / f"{name_or_path}.yaml"):
        if path.is_file():
            return path
    known = ", ".join((*PROMPTS, *sorted(path.stem for path in PROMPT_FILES.glob("*.yaml"))))
    raise PromptError(
        f"prompt {name_or_path!r} does not exist. Give one of {known}, or the path of a YAML file with the keys `cot` "
        "and `direct`"
    )
