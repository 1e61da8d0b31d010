"""Stage 2: HCM-GRPO, reinforcement learning with hard cases mining (paper, section 4).

Read in this order: command, train (the stage), grpo_trainer (TRL's trainer, extended), rollout, shared_prompt, pictures
and preallocated_kv_cache (speed-ups), warm_start.
"""

import warnings

# TRL warns of every vLLM that is newer than TRL itself. The tests hold the two versions that this project pins.
warnings.filterwarnings("ignore", "TRL currently supports vLLM versions", UserWarning)
