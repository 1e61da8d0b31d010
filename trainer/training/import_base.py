"""`python -m trainer import RECIPE`: a public base model becomes a checkpoint that every stage and the service take.

What a downloaded model lacks is the contract (`screening.json`): what it is asked, how large pictures are, how long an
answer may get. And three things have to be changed once, in its files, because whoever reads them later goes wrong
without a word: a head tied to the embeddings (a reload in place keeps the old head), pictures cut into tiles, and an
end token other than that with which the chat template ends an answer.
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

_ANSWER = "<think>I observed <A> normal, <B> layout, so I ultimately chose A.</think><answer>A</answer>"
"""Has every tag of the grammar."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    parser.add_argument(
        "--model",
        metavar="DIR_OR_NAME",
        help="directory of the downloaded model, or its name on the hub (default: the recipe's `base`)",
    )
    add_directory(parser, "--out", "for the checkpoint; must not exist")


def run(args: argparse.Namespace) -> int:
    manifest = import_base(args.recipe, args.out, model=args.model)
    print(f"{args.out}: {manifest.base} as {manifest.digest}")
    return 0


def import_base(recipe_name: str, out: Path, *, model: str | None = None) -> Manifest:
    """Write the checkpoint.

    Args:
        model: directory or hub name; None takes the recipe's `base`.

    Raises:
        BaseModelError: the model is not there, not whole, or not one that can be trained here.
        FileExistsError: `out` is there already.
        RecipeError: there is no such recipe, or it is not understood.
    """
    from screening.checkpoint.manifest import Decoding
    from trainer.training.base_source import find_source
    from trainer.training.export import export
    from trainer.training.recipe import load_recipe

    if out.exists():
        raise FileExistsError(f"{out} exists; name a new directory")
    recipe = load_recipe(recipe_name)
    named = model or recipe.base
    if named is None:
        raise BaseModelError(f"recipe {recipe.name!r} names no `base`: give --model, or make one with `pretrain`")
    source = find_source(named)
    network, processor = _load(source)
    changes = [untie(network), end_as_the_template_does(network, processor)]
    check_tags(processor)
    image = one_tile_per_picture(network, processor)
    check_question(processor, recipe.prompt_texts, image)
    imported = {**source.record(), "dtype": "BF16", "changes": [*filter(None, changes), "one tile per picture"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    return export(
        out,
        network,
        processor,
        name=recipe.name,
        version="base",
        base=source.name,
        prompt=recipe.prompt_texts,
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
    except Exception as error:  # transformers, tokenizers and safetensors raise what they like on a damaged file
        raise BaseModelError(f"{where} cannot be loaded: {_sentence(error)}; download the model again") from error
    # transformers fills what is missing with random numbers and leaves out what it does not know.
    wrong = set(report["missing_keys"]) | set(report["unexpected_keys"]) | set(report["mismatched_keys"])
    if wrong:
        named = ", ".join(sorted(map(str, wrong))[:5])
        raise BaseModelError(f"{where} is not whole: tensors missing or unknown: {named}")
    if broken := next((name for name, value in network.state_dict().items() if not value.isfinite().all()), None):
        raise BaseModelError(f"{where} is damaged: {broken} holds values that are not finite; download it again")
    if not isinstance(processor, InternVLProcessor):
        raise BaseModelError(f"{where} has the processor {type(processor).__name__}, not InternVL's")
    if not processor.chat_template:
        raise BaseModelError(f"{where} has no chat template (chat_template.jinja); download all of the model")
    return network, processor


def _sentence(error: Exception) -> str:
    """An error of a library on one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def untie(network: InternVLForConditionalGeneration) -> str | None:
    """Give the head a tensor of its own, equal to the embeddings if it was tied to them, and say so at both levels of
    the configuration: vLLM's reload in place keeps an old tied head silently (vllm #51665). Returns what changed."""
    import torch

    embeddings, head = network.get_input_embeddings(), network.get_output_embeddings()
    tied = head.weight.data_ptr() == embeddings.weight.data_ptr()
    if tied:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
    network.config.tie_word_embeddings = network.config.text_config.tie_word_embeddings = False
    network.all_tied_weights_keys = {}  # or saving leaves the head out
    return "head untied from the embeddings" if tied else None


def end_as_the_template_does(network: InternVLForConditionalGeneration, processor: InternVLProcessor) -> str | None:
    """Make the token that ends an answer in the chat template the one at which generation ends; returns what changed.

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
    _, found, behind = written.rpartition(_ANSWER)
    if not found:
        raise BaseModelError("the chat template does not write an assistant's text as it is; another base is needed")
    end = tokenizer.encode(behind, add_special_tokens=False)[:1]
    if not end or not (known := tokenizer.added_tokens_decoder.get(end[0])) or not known.special:
        raise BaseModelError(f"the chat template ends an answer with {behind!r}, which begins with no special token")
    before = tokenizer.eos_token
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end[0])
    if tokenizer.pad_token is None or tokenizer.pad_token_id == end[0]:
        raise BaseModelError("the tokenizer needs a padding token other than the one that ends an answer")
    network.config.text_config.eos_token_id = network.generation_config.eos_token_id = end[0]
    network.config.text_config.pad_token_id = network.generation_config.pad_token_id = tokenizer.pad_token_id
    return None if before == tokenizer.eos_token else f"end token {tokenizer.eos_token} in place of {before}"


def check_tags(processor: InternVLProcessor) -> None:
    """See that an answer can be read after decoding: special tokens are left out there.

    Raises:
        BaseModelError: its tags do not survive, so that every reward would be 0.
    """
    tokenizer = processor.tokenizer
    decoded = tokenizer.decode(tokenizer.encode(_ANSWER, add_special_tokens=False), skip_special_tokens=True)
    if decoded != _ANSWER:
        raise BaseModelError(f"the tokenizer loses tags of the answer: {decoded!r}; they must be no special tokens")


def one_tile_per_picture(network: InternVLForConditionalGeneration, processor: InternVLProcessor) -> ImageContract:
    """Make a picture one square of the ViT's size, whoever asks the processor.

    Raises:
        BaseModelError: model and processor do not agree on how many tokens a picture has.
    """
    from screening.checkpoint.manifest import ImageContract
    from trainer.training.plan.shapes import shapes_of

    shapes = shapes_of(network.config)
    images = processor.image_processor
    images.size = {"height": shapes.image_size, "width": shapes.image_size}
    # The processor cuts pictures into tiles by default whatever its file says, unless there is only one.
    images.crop_to_patches, images.min_patches, images.max_patches = False, 1, 1
    if processor.image_seq_length != shapes.tokens_per_picture:
        raise BaseModelError(
            f"the processor gives a picture {processor.image_seq_length} tokens, the model {shapes.tokens_per_picture}"
        )
    return ImageContract(size=shapes.image_size, tokens_per_picture=shapes.tokens_per_picture)


def check_question(processor: InternVLProcessor, prompt: Prompt, image: ImageContract) -> None:
    """See that a whole question comes out of the processor as the contract says.

    Raises:
        BaseModelError: it does not.
    """
    from PIL import Image
    from trl.data_utils import prepare_multimodal_messages

    from screening.answer import Mode
    from screening.prompt import PICTURES_PER_SAMPLE, messages

    # Not square, so that tiles would show.
    pictures = [Image.new("RGB", (2 * image.size, image.size))] * PICTURES_PER_SAMPLE
    asked = prepare_multimodal_messages(messages(prompt, Mode.COT), images=pictures)
    question = processor.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": "pt"}
    )
    tiles = tuple(question["pixel_values"].shape)
    tokens = int((question["input_ids"] == processor.image_token_id).sum())
    wanted = (PICTURES_PER_SAMPLE, 3, image.size, image.size), PICTURES_PER_SAMPLE * image.tokens_per_picture
    if (tiles, tokens) != wanted:
        raise BaseModelError(
            f"a question's pictures came out as {tiles} and {tokens} image tokens, not {wanted[0]} and {wanted[1]}"
        )
