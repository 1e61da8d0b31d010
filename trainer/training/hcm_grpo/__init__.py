"""Stage 2: HCM-GRPO, reinforcement learning with hard cases mining (paper, section 4).

Read in this order: command, train (the stage), grpo_trainer (TRL's trainer, extended), rollout, shared_prompt, pictures
and preallocated_kv_cache (speed-ups), warm_start.
"""
