"""Validation while training: `sft` and `hcm-grpo` score their model on held-out samples and publish its best state.

Read in this order: data (the samples, and what is refused), scoring (the model answers them), rule (which step is best,
and when the training stops), training (what a trainer does with both).
"""
