"""The tiny checkpoint's tokenizer: byte-level BPE learned from the project's own texts, with InternVL's token names.

It can encode any text (256 byte tokens), and common words are one token. Capital letters and digits never merge: each
option letter of an answer is a separate token with its own probability, and digits on labels can be compared one by
one. The tags of the answer grammar are *ordinary* added tokens. Decoders that skip special tokens would remove special
ones, and every reward would silently be 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<A>", "<B>", "<C>", "<D>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<IMG_CONTEXT>
{% elif part['type'] == 'text' -%}
{{- part['text'] }}{{ '' if loop.last else '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
"""ChatML in InternVL's form; a message that ends with text, such as an answer, gets no additional line break."""


def train_tokenizer(texts: Iterable[str], size: int = 640) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of about `size` tokens from texts without tags."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r" ?[a-z]+| ?[A-Z](?=[a-z]{2})[a-z]*| ?[A-Z]| ?[0-9]|\n| ?[^\sA-Za-z0-9]"), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        # InternVL's processor reads these names from the tokenizer.
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
