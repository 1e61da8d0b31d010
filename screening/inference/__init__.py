"""How vLLM is configured and asked, for the service and the trainer alike. Functions in here may import torch and vLLM.

Read in this order: generation (engine arguments and sampling), offline_engine, inspection with architecture (what would
fail in every engine). `worker_extension` runs in vLLM's worker, with picture_features, speculative_drafter and
draft_logprobs.
"""
