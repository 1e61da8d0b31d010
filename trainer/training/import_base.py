"""`python -m trainer import RECIPE`: turns a public base model into a checkpoint for every stage and the service.

It adds the contract (`screening.json`): prompts, picture size, tiles per picture, and maximum length of an answer. It
also changes three things in the model's files that would fail silently later: a head tied to the embeddings (an
in-place reload keeps the old head), pictures cut into more tiles than the recipe states, and an end token that is not
the one with which the chat template ends an answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.runs.arguments import RECIPE_HELP, add_directory
from trainer.training.base_source import BaseModelError

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, InternVLProcessor

    from screening.checkpoint.manifest import ImageContract, Manifest
    from screening.prompt import Prompt
    from trainer.training.base_source import Source
    from trainer.training.recipe.recipe import Recipe

_ANSWER = "<think>I observed <A> normal, <B> layout, so I ultimately chose A.</think><answer>A</answer>"
"""An answer with every tag of the grammar, for the checks below."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    parser.add_argument(
        "--model",
        metavar="DIR_OR_NAME",
        help="directory of the downloaded model, or name of a model to download from the hub (default: the recipe's "
        "`base`)",
    )
    add_directory(parser, "--out", "directory for the checkpoint; must not exist yet")


def run(args: argparse.Namespace) -> int:
    manifest = import_base(args.recipe, args.out, model=args.model)
    print(f"{args.out}: {manifest.base} as {manifest.digest}")
    return 0


def import_base(recipe_name: str, out: Path, *, model: str | None = None) -> Manifest:
    """Import a base model and write the checkpoint.

    Args:
        model: directory or hub name; None takes the recipe's `base`.

    Raises:
        BaseModelError: the model is missing, incomplete, or cannot be trained here.
        FileExistsError: `out` is there already.
        RecipeError: there is no such recipe, or it is not understood.
    """
    from screening.checkpoint.manifest import Decoding
    from screening.task import DIMENSIONS
    from trainer.training.base_source import find_source
    from trainer.training.export import export
    from trainer.training.recipe.recipe import load_recipe

    if out.exists():
        raise FileExistsError(f"{out} exists; name a new directory")
    recipe = load_recipe(recipe_name)
    named = model or recipe.base
    if named is None:
        raise BaseModelError(f"recipe {recipe.name!r} has no `base`. Give --model, or make a model with `pretrain`")
    source = find_source(named)
    network, processor = _load(source)
    changes = [untie(network), end_as_the_template_does(network, processor)]
    check_tags(processor)
    image = set_tiles(network, processor, recipe.tiles)
    check_question(processor, recipe.prompt_texts, image)
    check_prompt(processor.tokenizer, recipe, image.most_tokens, network.config.text_config.max_position_embeddings)
    changes.append("one tile per picture" if recipe.tiles == 1 else f"up to {recipe.tiles} tiles per picture")
    imported = {**source.record(), "dtype": "BF16", "changes": [*filter(None, changes)]}
    out.parent.mkdir(parents=True, exist_ok=True)
    return export(
        out,
        network,
        processor,
        name=recipe.name,
        version="base",
        base=source.name,
        prompt=recipe.prompt_texts,
        dimensions=DIMENSIONS,
        image=image,
        decoding=Decoding(max_tokens_cot=recipe.max_tokens_cot),
        data={"import": imported},
        recipe=recipe.model_dump(mode="json") | {"base": source.name},
    )


def _load(source: Source) -> tuple[InternVLForConditionalGeneration, InternVLProcessor]:
    import torch
    from transformers import AutoProcessor, InternVLForConditionalGeneration, InternVLProcessor

    where = source.directory
    try:
        network, report = InternVLForConditionalGeneration.from_pretrained(
            where,
            dtype=torch.bfloat16,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
        )
        processor = AutoProcessor.from_pretrained(where, local_files_only=True)
    except Exception as error:  # transformers, tokenizers and safetensors raise many kinds of errors
        raise BaseModelError(f"{where} cannot be loaded: {_sentence(error)}. Download the model again") from error
    # transformers fills missing tensors with random numbers and ignores unknown ones.
    wrong = set(report["missing_keys"]) | set(report["unexpected_keys"]) | set(report["mismatched_keys"])
    if wrong:
        named = ", ".join(sorted(map(str, wrong))[:5])
        raise BaseModelError(f"{where} is incomplete or another model. Missing or unknown tensors: {named}")
    if broken := next((name for name, value in network.state_dict().items() if not value.isfinite().all()), None):
        raise BaseModelError(f"{where} is damaged: {broken} holds values that are not finite. Download it again")
    if not isinstance(processor, InternVLProcessor):
        raise BaseModelError(f"{where} has the processor {type(processor).__name__}, not InternVL's")
    if not processor.chat_template:
        raise BaseModelError(f"{where} has no chat template (chat_template.jinja). Download all of the model")
    return network, processor


def _sentence(error: Exception) -> str:
    """The message of a library's error on one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def untie(network: InternVLForConditionalGeneration) -> str | None:
    """Untie the head from the embeddings, at both levels of the configuration. Returns the change for the manifest.

    vLLM's in-place reload silently keeps an old tied head (vllm #51665).
    """
    import torch

    embeddings, head = network.get_input_embeddings(), network.get_output_embeddings()
    tied = head.weight.data_ptr() == embeddings.weight.data_ptr()
    if tied:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
    network.config.tie_word_embeddings = network.config.text_config.tie_word_embeddings = False
    network.all_tied_weights_keys = {}  # otherwise saving leaves out the head
    return "head untied from the embeddings" if tied else None


def end_as_the_template_does(network: InternVLForConditionalGeneration, processor: InternVLProcessor) -> str | None:
    """Make generation end at the token with which the chat template ends an answer. Returns the change.

    Raises:
        BaseModelError: the template cannot be rendered, or does not end an answer with one token.
    """
    from jinja2 import TemplateError

    tokenizer = processor.tokenizer
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]},
    ]
    try:
        written = processor.apply_chat_template(talk, tokenize=False)
    except TemplateError as error:
        raise BaseModelError(f"the chat template cannot be rendered: {_sentence(error)}") from error
    _, found, ending = written.rpartition(_ANSWER)
    if not found:
        raise BaseModelError("the chat template changes an assistant's text. Use another base model")
    end = tokenizer.encode(ending, add_special_tokens=False)[:1]
    if not end or not (known := tokenizer.added_tokens_decoder.get(end[0])) or not known.special:
        raise BaseModelError(
            f"the chat template ends an answer with {ending!r}, which does not start with a special token"
        )
    before = tokenizer.eos_token
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end[0])
    if tokenizer.pad_token is None or tokenizer.pad_token_id == end[0]:
        raise BaseModelError(
            "the tokenizer's padding token is missing, or the one that ends an answer. Use another base model"
        )
    network.config.text_config.eos_token_id = network.generation_config.eos_token_id = end[0]
    network.config.text_config.pad_token_id = network.generation_config.pad_token_id = tokenizer.pad_token_id
    return None if before == tokenizer.eos_token else f"end token {tokenizer.eos_token} in place of {before}"


def check_tags(processor: InternVLProcessor) -> None:
    """Check that the tags of an answer survive decoding, which leaves out special tokens.

    Raises:
        BaseModelError: they do not, so every reward would be 0.
    """
    tokenizer = processor.tokenizer
    decoded = tokenizer.decode(tokenizer.encode(_ANSWER, add_special_tokens=False), skip_special_tokens=True)
    if decoded != _ANSWER:
        raise BaseModelError(
            f"the tokenizer loses tags of the answer: {decoded!r}. The tags must not be special tokens"
        )


def set_tiles(network: InternVLForConditionalGeneration, processor: InternVLProcessor, tiles: int) -> ImageContract:
    """Configure the processor to make tiles of the ViT's size out of each picture, at most `tiles`.

    Raises:
        BaseModelError: model and processor disagree on the number of tokens of a picture.
    """
    from screening.checkpoint.manifest import ImageContract
    from trainer.training.plan.shapes import shapes_of

    shapes = shapes_of(network.config)
    images = processor.image_processor
    images.size = {"height": shapes.image_size, "width": shapes.image_size}
    # By default the processor ignores its file and cuts pictures into tiles, unless the maximum is one.
    images.crop_to_patches, images.min_patches, images.max_patches = tiles > 1, 1, tiles
    if processor.image_seq_length != shapes.tokens_per_picture:
        raise BaseModelError(
            f"a picture has {processor.image_seq_length} tokens in the processor, but "
            f"{shapes.tokens_per_picture} in the model"
        )
    return ImageContract(size=shapes.image_size, tokens_per_picture=shapes.tokens_per_picture, max_patches=tiles)


def check_question(processor: InternVLProcessor, prompt: Prompt, image: ImageContract) -> None:
    """Check that the processor makes pixels and tokens of a question as the contract says.

    Raises:
        BaseModelError: it makes others.
    """
    from PIL import Image
    from trl.data_utils import prepare_multimodal_messages

    from screening.answer import Mode
    from screening.prompt import PICTURES_PER_SAMPLE, messages

    # As many tiles as possible; not square, so that tiles would show if there may be only one.
    width = max(2, image.max_patches) * image.size
    pictures = [Image.new("RGB", (width, image.size))] * PICTURES_PER_SAMPLE
    asked = prepare_multimodal_messages(messages(prompt, Mode.COT), images=pictures)
    question = processor.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": "pt"}
    )
    tiles = tuple(question["pixel_values"].shape)
    tokens = int((question["input_ids"] == processor.image_token_id).sum())
    shape = (PICTURES_PER_SAMPLE * image.most_tiles, 3, image.size, image.size)
    wanted = shape, PICTURES_PER_SAMPLE * image.most_tokens
    if (tiles, tokens) != wanted:
        raise BaseModelError(
            f"the processor made a pixel tensor of shape {tiles} and {tokens} image tokens of a question, "
            f"not {wanted[0]} and {wanted[1]}"
        )


def check_prompt(tokenizer: Any, recipe: Recipe, per_picture: int, positions: int) -> None:
    """Check the recipe's prompt with the model's own tokenizer.

    Args:
        per_picture: maximum number of image tokens of one picture.
        positions: maximum number of tokens of question and answer.

    Raises:
        RecipeError: a text contains a special token, or leaves no room for an answer.
    """
    from trainer.training.positions import check_recipe
    from trainer.training.recipe.recipe import RecipeError

    prompt = recipe.prompt_texts
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for name, text in (("cot", prompt.cot), ("direct", prompt.direct)):
        if found := next((token for token in special if token in text), None):
            raise RecipeError(
                f"recipe {recipe.name!r}, prompt.{name}: {found!r} is a special token of this model. Remove it"
            )
    check_recipe(recipe, per_picture, tokenizer, positions)
