"""Training of a checkpoint.

Read in this order: recipe (every setting), plan (what it costs), import_base with base_source (the base model), sft
(stage 1), pseudo_label (self-training), hard_cases, hcm_grpo (stage 2), report. Both stages share enough_data,
finetuning, saved_states, distributed, tracking and export.
"""
