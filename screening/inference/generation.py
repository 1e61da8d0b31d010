"""How vLLM is configured and asked, as pure functions that the service and the trainer's evaluation share.

Both pass the returned keywords to vLLM (`EngineArgs`/`AsyncEngineArgs`, `SamplingParams`). This module imports neither
vllm nor torch.
"""

from __future__ import annotations

import ctypes
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from screening.errors import UserError
from screening.prompt import PICTURES_PER_SAMPLE, Prompt, messages
from screening.runtime.cpus import engine_threads
from screening.runtime.machine import has_bfloat16
from screening.task import NONE, NORMAL, OPTIONS

SEED = 0
"""Fixed seed. The same question gets the same answer, except for near ties, which depend on the rest of a step."""

KV_CACHE_BYTES_ON_CPU = 512 * 2**20
"""Size of the KV cache on a CPU; twice as much in float32, for as many tokens. By default vLLM reserves a share of the
memory, and does not start if it is in use."""

CpuWorker = Literal["inside", "apart"]
"""Where vLLM's worker runs on a CPU: inside the engine core's process, or apart, in a process of its own."""

CpuDtype = Literal["auto", "bfloat16", "float32"]
"""Number format of the model on a CPU; see `engine_arguments`."""

DRAFTED_ON_CPU = 12
"""Default number of draft tokens on a CPU (`screening.inference.speculative_drafter`). On a GPU it is 0: there vLLM
schedules a step while the previous one computes, which drafts from the CPU would prevent. This was not measured.
"""

_AS_FITS = -1
_INSIDE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_DRAFTER = "screening.inference.speculative_drafter.AnswerDrafter"
_WORKER_EXTENSION = "screening.inference.worker_extension.WorkerExtension"

WATCH_DRAFTS = "watch_drafts"
"""Command (`collective_rpc`) to an engine with a `speculative_config`, before its first request."""

WATCH_PICTURES = "watch_pictures"
"""Command (`collective_rpc`) to keep the features of pictures, before the first request. Its argument is the number of
image tokens of one picture."""

PICTURE_FEATURES = "picture_features"
"""Command (`collective_rpc`) that returns the features of pictures by name (`screening.inference.picture_features`)."""

FINISHED = ("stop", "length")
"""Reasons of a normal end. Others (`abort`, `error`) are failures that `generate` often reports without raising."""


class Tokenizer(Protocol):
    """The methods of a transformers tokenizer that this module uses."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, token_ids: Any, **kwargs: Any) -> Any: ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Watched:
    """Tokens whose log-probability vLLM reports at every step.

    `letters` maps `A`-`D` and `N` to the token of the letter, without letters that take several tokens. `normal` holds
    every token that can begin the verdict word `normal`.
    """

    letters: Mapping[str, int]
    normal: frozenset[int]

    @property
    def ids(self) -> list[int]:
        """All watched tokens, sorted, for `SamplingParams.logprob_token_ids`."""
        return sorted({*self.letters.values(), *self.normal})


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token: its text, its id, and natural log-probabilities of the watched tokens and of itself."""

    piece: str
    token_id: int
    logprobs: Mapping[int, float]


class _Logprob(Protocol):
    logprob: float


def watched(tokenizer: Tokenizer) -> Watched:
    """Return the tokens that carry the decision (see `screening.confidence`)."""
    letters: dict[str, int] = {}
    for letter in (*OPTIONS, NONE):
        ids = tokenizer.encode(letter, add_special_tokens=False)
        if len(ids) == 1:
            letters[letter] = ids[0]
    normal: set[int] = set()
    for spelling in (f" {NORMAL}", NORMAL):
        # A tokenizer may have a separate token for the blank, so the first token with a letter in it decides.
        for token_id in tokenizer.encode(spelling, add_special_tokens=False):
            if tokenizer.decode([token_id]).strip():
                normal.add(token_id)
                break
    return Watched(letters, frozenset(normal))


def engine_arguments(
    checkpoint_dir: Path | str,
    manifest: Manifest,
    *,
    device: Literal["cpu", "cuda"],
    cpu_worker: CpuWorker = "inside",
    cpu_dtype: CpuDtype = "auto",
    draft_tokens: int | None = None,
) -> dict[str, Any]:
    """Return keywords of vLLM's engine arguments that prepare questions as in the checkpoint's training.

    Args:
        cpu_worker: `inside`, in the engine core's process, needs `cpu_environment` in the environment. `apart`, in a
            process of its own, is vLLM's default; the engine core then waits in a busy loop, which takes a whole CPU
            core (docs/experiments/2026-11-21-swaps-under-load.md).
        cpu_dtype: number format of the model on a CPU; `auto` is bfloat16 if the processor has instructions for it,
            else float32, which needs twice the memory.
        draft_tokens: number of draft tokens (`screening.inference.speculative_drafter`), 0 for no drafts; None for
            `DRAFTED_ON_CPU` on a CPU and 0 on a GPU.
    """
    arguments: dict[str, Any] = {
        "model": str(checkpoint_dir),
        "served_model_name": manifest.name,  # the label of the engine's metrics, by default the directory
        "seed": SEED,
        "limit_mm_per_prompt": {"image": PICTURES_PER_SAMPLE},
        "mm_processor_kwargs": tiling_arguments(manifest),
        # The checkpoint's generation_config.json must not change the sampling.
        "generation_config": "vllm",
        "worker_extension_cls": _WORKER_EXTENSION,
    }
    if manifest.decoding.mode == "grammar":
        # The guidance backend rejects the tags of our grammar.
        arguments["structured_outputs_config"] = {"backend": "xgrammar"}
    if device == "cpu":
        # Compiling makes the start take 40 s instead of 15 s, and answers on a CPU are no faster.
        arguments["enforce_eager"] = True
        arguments["dtype"] = ("bfloat16" if has_bfloat16() else "float32") if cpu_dtype == "auto" else cpu_dtype
        arguments["kv_cache_memory_bytes"] = KV_CACHE_BYTES_ON_CPU * (2 if arguments["dtype"] == "float32" else 1)
        arguments["max_model_len"] = _AS_FITS  # A large model's full length would not fit into that cache.
        # The check of free memory at the start uses this share, although the cache has a fixed size.
        arguments["gpu_memory_utilization"] = 0.1
        if cpu_worker == "inside":
            # A path, because vLLM rejects the short name `uni` on a CPU.
            arguments["distributed_executor_backend"] = _INSIDE
    if draft_tokens is None:
        draft_tokens = DRAFTED_ON_CPU if device == "cpu" else 0
    if draft_tokens:
        arguments["speculative_config"] = {
            "method": "custom_class",
            "model": _DRAFTER,
            "num_speculative_tokens": draft_tokens,
        }
    return arguments


def cpu_environment() -> dict[str, str]:
    """Return default variables for an engine on a CPU.

    They leave one usable CPU for everything else, and they turn off torch.compile: even with `enforce_eager`, vLLM
    compiles two small functions of its sampler. That takes 6 s of CPU time at the first start in a new container, and
    needs a C++ compiler.

    Raises:
        UserError: a program that vLLM runs on a CPU, or a library that it loads there, is missing.
    """
    if shutil.which("lscpu") is None:
        raise UserError(
            "vLLM runs the program lscpu, which is not in PATH. Install it (on Debian and Ubuntu 'apt-get install "
            "util-linux'), or add its directory, such as /usr/bin, to PATH."
        )
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise UserError(
            "vLLM needs the library libnuma.so.1 on a CPU, which could not be loaded. Install it (on Debian and Ubuntu "
            "'apt-get install libnuma1')."
        ) from error
    return {"OMP_NUM_THREADS": str(engine_threads()), "TORCHDYNAMO_DISABLE": "1"}


def tiling_arguments(manifest: Manifest) -> dict[str, Any]:
    """Return the tiling arguments. InternVL's processor cuts tiles by default, whatever its configuration file says."""
    if manifest.image.max_patches == 1:
        return {"crop_to_patches": False}
    return {"crop_to_patches": True, "max_patches": manifest.image.max_patches}


def prompt_text(tokenizer: Tokenizer, prompt: Prompt, mode: Mode, locate: bool = False) -> str:
    """Return the question in the chat template, with one image placeholder per picture, which vLLM expands."""
    text = tokenizer.apply_chat_template(messages(prompt, mode, locate), tokenize=False, add_generation_prompt=True)
    return str(text)


def sampling_arguments(
    manifest: Manifest, mode: Mode, watch_ids: Sequence[int], locate: bool = False
) -> dict[str, Any]:
    """Return keywords of vLLM's `SamplingParams`, without the grammar, which `answer_regex` returns."""
    return {
        "temperature": 0.0,
        "seed": SEED,
        "max_tokens": manifest.decoding.max_tokens(mode, locate),
        # With `logprobs` unset, vLLM reports exactly these tokens and the generated one.
        "logprob_token_ids": list(watch_ids) or None,
        # vLLM would spell every watched token at every step, a tenth of the service's work: see `Spelling`.
        "detokenize": False,
    }


def probe_sampling_arguments() -> dict[str, Any]:
    """Keywords of vLLM's `SamplingParams` for the log-probabilities of a prompt's own tokens."""
    # One token must be generated. 0: no log-probabilities besides those of the prompt's own tokens.
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def last_log_probabilities(
    token_ids: Sequence[int] | None, logprobs: Sequence[Mapping[int, _Logprob] | None] | None, count: int
) -> list[float]:
    """Natural log-probabilities of a prompt's last tokens.

    Args:
        token_ids, logprobs: `prompt_token_ids` and `prompt_logprobs` of vLLM's `RequestOutput`.
        count: number of tokens, at least 1.

    Returns:
        As many numbers, in the prompt's order, or fewer if it is shorter. NaN where vLLM has none (the first token).

    Raises:
        ValueError: vLLM gave fewer entries than tokens.
    """
    pairs = zip((token_ids or ())[-count:], (logprobs or ())[-count:], strict=True)
    return [entry[token].logprob if entry else math.nan for token, entry in pairs]


_BOX = r"<box>\[\[[0-9]{1,4}(, [0-9]{1,4}){3}\]\]</box>"


def answer_regex(manifest: Manifest, mode: Mode, locate: bool = False) -> str | None:
    """Return the grammar for constrained decoding as a regular expression; None if the checkpoint decodes freely.

    The reasoning has a maximum length, because a model that never stops would reach the token limit without an answer.
    The option sets are listed, because `A?B?C?D?` also matches the empty text.
    """
    if manifest.decoding.mode == "free":
        return None
    sets = ["".join(chosen) for size in range(1, 1 + len(OPTIONS)) for chosen in combinations(OPTIONS, size)]
    options = "(" + "|".join([*sets, NONE]) + ")"
    if mode is Mode.DIRECT:
        return options
    # After its boxes, the last sentence goes on with the conclusion.
    boxes = f"(({_BOX}){{1,{len(manifest.dimensions)}}}[^<]{{1,60}})?" if locate else ""
    sentences = "".join(f"<{option}>[^<]{{1,240}}{boxes}" for option in OPTIONS)
    return f"<think>[^<]{{1,400}}{sentences}</think><answer>{options}</answer>"


class Spelling:
    """Turns the token ids of a finished answer into text. Each token is decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the whole text without special tokens, and without an incomplete character at the end."""
        ids = list(token_ids)
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).rstrip("\ufffd")

    def steps(
        self, token_ids: Sequence[int], logprobs: Sequence[Mapping[int, _Logprob] | None] | None
    ) -> tuple[Step, ...]:
        """Convert vLLM's `CompletionOutput.token_ids` and `.logprobs` into steps; empty without log-probabilities."""
        if logprobs is None:
            return ()
        return tuple(
            Step(self._piece(token_id), token_id, {key: value.logprob for key, value in (entry or {}).items()})
            for token_id, entry in zip(token_ids, logprobs, strict=True)
        )

    def _piece(self, token_id: int) -> str:
        """Decode one token, also a special one. A token with a part of a character gives U+FFFD."""
        if (piece := self._pieces.get(token_id)) is None:
            piece = self._pieces[token_id] = str(self._tokenizer.decode([token_id]))
        return piece
