"""The generation settings that the service and the trainer share."""

from __future__ import annotations

import math
import pydoc
import re
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from screening.answer import Answer, Finding, Mode, compose, parse, render, with_boxes
from screening.boxes import Box
from screening.checkpoint.manifest import Decoding, ImageContract, Manifest
from screening.errors import UserError
from screening.inference.generation import (
    PICTURE_FEATURES,
    WATCH_DRAFTS,
    WATCH_PICTURES,
    Spelling,
    Step,
    answer_regex,
    cpu_environment,
    engine_arguments,
    last_log_probabilities,
    probe_sampling_arguments,
    prompt_text,
    sampling_arguments,
    watched,
)
from screening.inference.speculative_drafter import AnswerDrafter
from screening.prompt import COMPACT, locating
from screening.task import Dimension


def manifest(mode: Any = "free", max_patches: int = 1) -> Manifest:
    return Manifest(
        name="test",
        version="1",
        created="2026-01-01T00:00:00+00:00",
        prompt=COMPACT,
        image=ImageContract(size=112, tokens_per_picture=16, max_patches=max_patches),
        decoding=Decoding(mode=mode, max_tokens_cot=200, max_tokens_direct=6),
        files={},
    )


class LetterTokenizer:
    """One token per character, except for the words it knows."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [self.words.index(text) + 1000] if text in self.words else [ord(each) for each in text]

    def decode(self, token_ids: list[int], **_: Any) -> str:
        return "".join(self.words[each - 1000] if each >= 1000 else chr(each) for each in token_ids)

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        assert kwargs == {"tokenize": False, "add_generation_prompt": True}
        return "".join(item.get("text", "<image>") for item in conversation[0]["content"])


def test_pictures_are_not_tiled_unless_the_checkpoint_says_so() -> None:
    arguments = engine_arguments("d", manifest(), device="cuda")
    assert arguments["mm_processor_kwargs"] == {"crop_to_patches": False}
    assert arguments["limit_mm_per_prompt"] == {"image": 5}
    tiled = engine_arguments("d", manifest(max_patches=6), device="cuda")["mm_processor_kwargs"]
    assert tiled == {"crop_to_patches": True, "max_patches": 6}


def test_only_a_cpu_gets_the_cpus_settings() -> None:
    assert "kv_cache_memory_bytes" in engine_arguments("d", manifest(), device="cpu")
    assert not {"kv_cache_memory_bytes", "enforce_eager"} & engine_arguments("d", manifest(), device="cuda").keys()


@pytest.mark.parametrize(("instructions", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_without_bfloat16_instructions_computes_in_float32(instructions, dtype, monkeypatch) -> None:
    monkeypatch.setattr("screening.inference.generation.has_bfloat16", lambda: instructions)
    assert engine_arguments("d", manifest(), device="cpu")["dtype"] == dtype
    assert engine_arguments("d", manifest(), device="cpu", cpu_dtype="bfloat16")["dtype"] == "bfloat16"
    assert "dtype" not in engine_arguments("d", manifest(), device="cuda", cpu_dtype="float32")


def test_the_worker_is_inside_the_engine_core_on_a_cpu_by_default() -> None:
    name = "distributed_executor_backend"
    assert engine_arguments("d", manifest(), device="cpu")[name].endswith(".UniProcExecutor")
    assert name not in engine_arguments("d", manifest(), device="cpu", cpu_worker="apart")
    assert name not in engine_arguments("d", manifest(), device="cuda")


def test_answers_are_drafted_on_a_cpu_by_default() -> None:
    drafting = {"speculative_config"}
    for device, tokens, drafted in (("cpu", None, 12), ("cpu", 0, None), ("cuda", None, None), ("cuda", 5, 5)):
        arguments = engine_arguments("d", manifest(), device=device, draft_tokens=tokens)
        assert drafting & arguments.keys() == (drafting if drafted else set())
        assert arguments.get("speculative_config", {}).get("num_speculative_tokens") == drafted
        for method in (WATCH_DRAFTS, WATCH_PICTURES, PICTURE_FEATURES):
            assert callable(getattr(pydoc.locate(arguments["worker_extension_cls"]), method))
    assert pydoc.locate(arguments["speculative_config"]["model"]) is AnswerDrafter


def test_one_core_is_left_for_everything_else(monkeypatch) -> None:
    for cores, threads in (({0}, "1"), ({0, 1}, "1"), (set(range(8)), "7")):
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid, cores=cores: cores)
        assert cpu_environment()["OMP_NUM_THREADS"] == threads


def test_a_missing_program_of_vllm_is_named_with_its_package(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"lscpu, which is not in PATH\. Install .*util-linux"):
        cpu_environment()


def test_a_missing_library_of_vllm_is_named_with_its_package(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(UserError, match=r"library libnuma\.so\.1 .*Install .*libnuma1"):
        cpu_environment()


def test_sampling_is_greedy_and_asks_for_exactly_the_watched_tokens() -> None:
    arguments = sampling_arguments(manifest(), Mode.DIRECT, [3, 4])
    assert (arguments["temperature"], arguments["max_tokens"]) == (0.0, 6)
    assert arguments["logprob_token_ids"] == [3, 4] and "logprobs" not in arguments
    assert sampling_arguments(manifest(), Mode.COT, [3])["max_tokens"] == 200


def test_only_single_token_letters_are_watched_and_normal_skips_a_blank_token() -> None:
    plain = watched(LetterTokenizer(" normal"))
    assert plain.letters == {letter: ord(letter) for letter in "ABCDN"}
    assert plain.normal == {1000, ord("n")}
    assert set(plain.ids) == {*map(ord, "ABCDN"), 1000, ord("n")}


def test_the_prompt_has_one_placeholder_per_picture() -> None:
    text = prompt_text(LetterTokenizer(), COMPACT, Mode.COT)
    assert text.startswith(COMPACT.cot) and text.count("<image>") == 5


def test_a_free_checkpoint_has_no_grammar() -> None:
    assert answer_regex(manifest("free"), Mode.COT) is None
    assert "structured_outputs_config" not in engine_arguments("d", manifest("free"), device="cpu")


@pytest.mark.parametrize("options", ["", "A", "BD", "ABCD"])
def test_the_grammar_agrees_with_render_and_parse(options: str) -> None:
    findings = tuple(
        Finding(o, frozenset() if o in options else frozenset({Dimension.SHADOW}), "a sentence") for o in "ABCD"
    )
    answer = compose(frozenset(options), findings, "The original is a red box.")
    for mode in Mode:
        regex = answer_regex(manifest("grammar"), mode)
        text = render(answer, mode)
        assert regex is not None and re.fullmatch(regex, text)
        assert isinstance(parse(text, mode), Answer)


@pytest.mark.parametrize("text", ["", "NA", "BA", "AA", "E"])
def test_the_grammar_refuses_text_that_is_not_an_answer(text: str) -> None:
    regex = answer_regex(manifest("grammar"), Mode.DIRECT)
    assert regex is not None and not re.fullmatch(regex, text)


def test_steps_keep_piece_id_and_values() -> None:
    entry = {65: SimpleNamespace(logprob=-0.1), 66: SimpleNamespace(logprob=-3.0)}
    spelling = Spelling(LetterTokenizer())
    (only,) = spelling.steps([65], [entry])
    assert (only.piece, only.token_id, only.logprobs) == ("A", 65, {65: -0.1, 66: -3.0})
    assert spelling.steps([65, 66], [entry, None])[1] == Step("B", 66, {})
    assert spelling.steps([65], None) == ()


def test_the_shipped_tokenizer_spells_an_answer_back_without_its_end(tiny_checkpoint) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    text = "<think>The original is a red box. I observed <A> normal: it stands well.</think><answer>A</answer>"
    ids, spelling = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], Spelling(tokenizer)
    assert spelling.text(ids) == text
    steps = spelling.steps(ids, [{}] * len(ids))
    assert "".join(step.piece for step in steps) == text + tokenizer.eos_token


def test_a_probe_asks_for_the_log_probabilities_of_the_prompts_own_tokens_and_reads_the_last() -> None:
    assert probe_sampling_arguments() == {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    # Where another token is likelier, vLLM also returns that one.
    likelier = {3: SimpleNamespace(logprob=-0.1), 9: SimpleNamespace(logprob=-2.5)}
    entries = [None, {7: SimpleNamespace(logprob=-0.5)}, likelier]
    assert last_log_probabilities([5, 7, 9], entries, 2) == [-0.5, -2.5]
    first, *rest = last_log_probabilities([5, 7, 9], entries, 24)
    assert math.isnan(first) and rest == [-0.5, -2.5]
    with pytest.raises(ValueError, match="shorter"):
        last_log_probabilities([5, 7, 9], None, 2)


def test_a_grammar_with_places_allows_boxes_and_also_none() -> None:
    plain, located = (answer_regex(manifest("grammar"), Mode.COT, locate=locate) for locate in (False, True))
    reasoning = (
        "I observed <A> normal: unchanged, <B> appearance + shadow: the cap is red, <C> normal: unchanged, "
        "<D> layout: it floats, so I ultimately chose AC."
    )
    box = Box(0.1, 0.2, 0.3, 0.4)
    with_places = with_boxes(reasoning, {"B": [box, box], "D": [box]})
    assert plain is not None and located is not None
    for text, allowed_by in ((reasoning, (plain, located)), (with_places, (located,))):
        answer = f"<think>{text}</think><answer>AC</answer>"
        assert [regex for regex in (plain, located) if re.fullmatch(regex, answer)] == list(allowed_by)


def test_a_located_question_has_its_own_prompt_and_length() -> None:
    asked = manifest().model_copy(
        update={"prompt": locating(COMPACT), "decoding": Decoding(max_tokens_cot=200, max_tokens_locate=400)}
    )
    assert [sampling_arguments(asked, Mode.COT, [], locate)["max_tokens"] for locate in (False, True)] == [200, 400]
    with pytest.raises(ValueError, match="no instruction to locate"):
        COMPACT.text(Mode.COT, locate=True)
    with pytest.raises(ValueError, match="in mode direct"):
        asked.prompt.text(Mode.DIRECT, locate=True)
