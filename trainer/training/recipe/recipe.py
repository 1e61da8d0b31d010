"""A whole recipe, and how it is read from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from screening.checkpoint.manifest import Decoding, ImageContract, with_thumbnail
from screening.errors import UserError
from screening.prompt import PROMPTS, Prompt
from trainer.prompt_texts import PromptError, PromptTexts, load_texts
from trainer.training.architecture import Architecture
from trainer.training.recipe.fields import Count, Strict, Tiles
from trainer.training.recipe.pretrain import PretrainRecipe
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe
from trainer.yaml_file import YamlError, read_yaml

RECIPES = Path(__file__).parents[2] / "recipes"


class RecipeError(UserError, ValueError):
    """A recipe is missing or wrong, or its training cannot start; the message names the file and the field."""


_TEXTS = "texts"
_PromptChoice = Annotated[
    Annotated[Literal["standard", "compact"], Tag("name")] | Annotated[PromptTexts, Tag(_TEXTS)],
    Discriminator(lambda prompt: "name" if isinstance(prompt, str) else _TEXTS),
]


class Recipe(Strict):
    """All settings that make one model."""

    name: str
    base: str | None = None
    """Model to start from (a directory or a hub name); None starts from random weights with `architecture`."""
    prompt: _PromptChoice
    """What the model is asked: `standard`, `compact`, or texts of your own under the keys `cot` and `direct`. A file
    with these keys may hold the texts: give its path, or the name of a shipped one (`paper`)."""
    tiles: Tiles = 1
    """Maximum number of tiles per picture, 1 to 4. With more than one, InternVL's processor cuts a picture into the
    grid that fits its shape best and adds the whole picture as a thumbnail: 4 tiles show four times as many pixels and
    take up to five times as many image tokens. `import` and `pretrain` write the number into the checkpoint."""
    architecture: Architecture | None = None
    pretrain: PretrainRecipe | None = None
    sft_weak: SftRecipe
    """Stage 1.1: captions and weakly supervised reasoning."""
    sft_answer: SftRecipe
    """Stage 1.2: answer-driven reasoning."""
    hcm_grpo: HcmGrpoRecipe | None = None
    """Stage 2; None if the training ends after stage 1."""
    max_tokens_cot: Annotated[Count, Field(le=32_768)]
    """Maximum length of an answer in CoT mode, in tokens. `import` and `pretrain` write it into the checkpoint, and
    validation, evaluation and service cut a longer answer."""

    @property
    def prompt_texts(self) -> Prompt:
        return self.prompt.prompt if isinstance(self.prompt, PromptTexts) else PROMPTS[self.prompt]

    @property
    def most_tiles(self) -> int:
        """Maximum number of tiles per picture, thumbnail included."""
        return with_thumbnail(self.tiles)

    @property
    def teaches_places(self) -> bool:
        """Whether a stage teaches the model to say where the issues are."""
        pretrained = self.pretrain is not None and self.pretrain.locates
        return pretrained or any(sft.locate > 0 for sft in (self.sft_weak, self.sft_answer))

    def refuse_other_prompt(self, asked: Prompt) -> None:
        """Refuse a checkpoint that is asked with other texts than those that the recipe states.

        Args:
            asked: the prompt of the checkpoint from which a training starts. With a built-in prompt in the recipe, the
                checkpoint may have another version of it, and keeps that.

        Raises:
            RecipeError: the prompts differ.
        """
        if isinstance(self.prompt, PromptTexts) and (asked.cot, asked.direct) != (self.prompt.cot, self.prompt.direct):
            raise RecipeError(
                f"recipe {self.name!r} states the prompt {self.prompt_texts.version}, but the checkpoint is asked with "
                f"{asked.version}, which a training does not change. Start from a base model that `trainer import` "
                "gave this prompt, or write `prompt: standard`, with which a checkpoint keeps its own"
            )

    def refuse_other_tiles(self, image: ImageContract) -> None:
        """Refuse a checkpoint whose pictures are cut into more or fewer tiles than the recipe states.

        Args:
            image: how the pictures of the checkpoint are prepared from which a training starts.

        Raises:
            RecipeError: the numbers differ.
        """
        self._refuse_other("tiles", self.tiles, image.max_patches, "pictures have at most {}")

    def refuse_other_length(self, decoding: Decoding) -> None:
        """Refuse a checkpoint whose answers may have more or fewer tokens than the recipe states.

        Args:
            decoding: how the answers of the checkpoint are generated from which a training starts.

        Raises:
            RecipeError: the numbers differ.
        """
        given = decoding.max_tokens_cot
        self._refuse_other("max_tokens_cot", self.max_tokens_cot, given, "answers have at most {} tokens")

    def _refuse_other(self, setting: str, own: int, given: int, fact: str) -> None:
        if own != given:
            raise RecipeError(
                f"recipe {self.name!r} has `{setting}: {own}`, but the checkpoint's {fact.format(given)}, which a "
                f"training does not change. Write `{setting}: {given}`, or import the base model again with this recipe"
            )

    @property
    def stage_2(self) -> HcmGrpoRecipe:
        """The settings of stage 2.

        Raises:
            RecipeError: the recipe has none.
        """
        if self.hcm_grpo is None:
            raise RecipeError(f"recipe {self.name!r} has no section `hcm_grpo`, which stage 2 needs")
        return self.hcm_grpo


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`tiny`) or path.

    A recipe with `extends: NAME_OR_PATH` states only the keys, at any depth, that differ from that recipe.

    Raises:
        RecipeError: the recipe does not exist, or has unknown, missing or wrong fields.
    """
    path = _path_of(name_or_path)
    try:
        return Recipe.model_validate(_read(path))
    except ValidationError as error:
        raise RecipeError(f"{path}, {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first error as one sentence with field and value. Wrong fields come before missing ones."""
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    first, *others = found
    given = f" (it is {repr(first['input'])[:100]})" if isinstance(first["input"], str | int | float) else ""
    more = f"; also wrong: {', '.join(map(_field, others[:3]))}{', …' if len(others) > 3 else ''}" if others else ""
    return f"{_field(first)}: {first['msg'].removeprefix('Value error, ')}{given}{more}"


def _field(error: Any) -> str:
    return ".".join(str(part) for part in error["loc"] if part != _TEXTS) or "the file"


def _path_of(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if not path.suffix:
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise RecipeError(
            f"recipe {name_or_path!r} does not exist. Give the path of a YAML file, or a shipped recipe: {known}"
        )
    return path


def _read(path: Path, readers: tuple[Path, ...] = ()) -> Any:
    """The content of a recipe file, merged into the recipe that it extends."""
    if path.resolve() in readers:
        raise RecipeError(f"{path} extends itself")
    try:
        settings = read_yaml(path)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror})") from error
    except YamlError as error:
        raise RecipeError(str(error)) from error
    if not isinstance(settings, dict):
        return settings
    if isinstance(prompt := settings.get("prompt"), str) and prompt not in PROMPTS:
        settings["prompt"] = _texts(path, prompt)
    if "extends" not in settings:
        return settings
    parent = settings.pop("extends")
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: `extends` must be the name or the path of a recipe")
    beside = path.parent / parent
    return _merged(_read(beside if beside.is_file() else _path_of(parent), (*readers, path.resolve())), settings)


def _texts(recipe: Path, prompt: str) -> Any:
    """The texts of the file that a recipe names as its prompt."""
    try:
        return load_texts(prompt, beside=recipe.parent).model_dump()
    except PromptError as error:
        raise RecipeError(f"{recipe}, prompt: {error}") from error


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
