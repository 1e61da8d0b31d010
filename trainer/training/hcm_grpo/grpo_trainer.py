"""TRL's GRPOTrainer, extended to compute once what the completions of a group share, and to resume correctly.

The objective is TRL's. Pictures are preprocessed once, and prompts are read once per group, in the rollout and in both
forward passes. TRL's own code runs where this is impossible: with flash attention, which takes no custom mask, and for
text without pictures.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from screening.prompt import PICTURES_PER_SAMPLE
from trainer.training.finetuning import StrictResume
from trainer.training.hcm_grpo.pictures import CachingImageProcessor
from trainer.training.hcm_grpo.rollout import Sampling, roll_out
from trainer.training.hcm_grpo.shared_prompt import GROUP_ATTENTION, once_per_group, share_prompt
from trainer.training.hcm_grpo.vllm_rollouts import collapsed, forget_pictures_after_sync, send_merged_weights
from trainer.training.sharding import whole_weights
from trainer.training.tracking.callbacks import ExampleKeeper

_MASKED_ATTENTION = ("eager", "sdpa")
"""Kinds of attention that take a custom mask, and that `group_attention` can replace."""


class GroupGRPOTrainer(StrictResume, GRPOTrainer):
    """Resumes from the weights it saved, computes shared prompts once, and gives its rollouts to a keeper."""

    keeper: ExampleKeeper | None = None
    """Gets the first group of every batch of rollouts."""

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for model in filter(None, (self.model, self.ref_model)):
            text = self.accelerator.unwrap_model(model).config.get_text_config()
            if text._attn_implementation in _MASKED_ATTENTION:
                text._attn_implementation = GROUP_ATTENTION
        if self.use_vllm:
            forget_pictures_after_sync(self.vllm_generation)
            if is_peft_model(self.model):
                send_merged_weights(self.vllm_generation)
        questions = self.args.generation_batch_size // self.args.world_size // self.num_generations
        self.processing_class.image_processor = CachingImageProcessor(
            self.processing_class.image_processor, remembered=PICTURES_PER_SAMPLE * max(questions, 1)
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As in TRL, but in training the completions of a step are not shuffled, which would separate the groups."""
        if not self.model.training or self.num_iterations > 1:
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % parts == 0 or self._buffered_inputs is None:
            rollouts = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in split_tensor_dict(rollouts, parts)]
        return self._buffered_inputs[self._step % parts]

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, fields: dict[str, Any], num_generations: int, **others: Any
    ) -> Any:
        if self.use_vllm:
            if self.vllm_mode == "colocate":
                prompt_ids = [collapsed(ids, *self.processing_class.image_token_ids) for ids in prompt_ids]
            return super()._generate_single_turn(prompt_ids, images, fields, num_generations, **others)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        # Tiles, of which a picture may have several.
        counts = [ids.count(model.config.image_token_id) // model.config.image_seq_length for ids in prompt_ids]
        if not self._shares_prompts() or not all(counts) or sum(counts) != len(fields.get("pixel_values", ())):
            with whole_weights(model):
                return super()._generate_single_turn(prompt_ids, images, fields, num_generations, **others)
        questions = prompt_ids[::num_generations]
        padded = self._tokenizer.pad({"input_ids": questions}, padding=True, padding_side="left", return_tensors="pt")
        pixels = torch.as_tensor(fields["pixel_values"])
        prompts = {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            "pixel_values": once_per_group(pixels, counts, num_generations),
        }
        was_training = model.training
        model.eval()
        try:
            # One context around all passes, so that weights are cast once and not for every token.
            with self.accelerator.autocast(), whole_weights(model):
                completions = roll_out(
                    model,
                    {name: value.to(self.accelerator.device) for name, value in prompts.items()},
                    group_size=num_generations,
                    sampling=Sampling(self.temperature, self.top_k, self.top_p),
                    max_tokens=self.max_completion_length,
                    ends=self.eos_token_ids,
                    # An image token without a picture would make the next pass fail.
                    never=[self.model.config.image_token_id],
                )
        finally:
            model.train(was_training)
        return completions, None

    def _shares_prompts(self) -> bool:
        return bool(self.model.config.get_text_config()._attn_implementation == GROUP_ATTENTION)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> Any:
        """Log-probability and entropy of each token of each completion, (B, C), groups in one row each."""
        shares = self._shares_prompts()
        batch_size = batch_size or len(input_ids)
        size = self.num_generations
        counts, pixels = others.get("num_tiles") or others.get("num_images"), others.get("pixel_values")
        if (
            not shares
            or batch_size % size
            or len(input_ids) % size
            or counts is None
            or pixels is None
            or sum(counts) != len(pixels)
        ):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
            )
        log_probabilities, entropies = [], []
        for at in range(0, len(input_ids), batch_size):
            part = slice(at, at + batch_size)
            rows = share_prompt(input_ids[part], attention_mask[part], logits_to_keep, size)
            shown = pixels[sum(counts[:at]) : sum(counts[: at + batch_size])]
            with self.accelerator.autocast():
                output = model(
                    input_ids=rows.ids,
                    # transformers passes on a mask with four axes unread, and would build its own without one.
                    # `group_attention` reads `shared_prompt` instead.
                    attention_mask=rows.completion_sees,
                    shared_prompt=rows,
                    position_ids=rows.positions,
                    pixel_values=once_per_group(shown, counts[part], size),
                    labels=rows.labels,
                    fused_lm_head=True,
                )
            log_probabilities.append(rows.by_completion(output.log_probs))
            if compute_entropy:
                entropies.append(rows.by_completion(output.entropy))
        return torch.cat(log_probabilities), torch.cat(entropies) if entropies else None, None

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], ids: list[list[int]]
    ) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, ids)
        if self.keeper:  # rewards come from all processes; those of the first one, which keeps examples, are first
            size = self.num_generations
            named = [dict(zip(self.reward_func_names, row, strict=True)) for row in rewards[:size].tolist()]
            self.keeper.see(inputs[0]["id"], completions[:size], ids[:size], named)
        return rewards
