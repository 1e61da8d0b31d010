"""Engines: what answers a question about pictures.

Read in this order: protocol (what the service needs from an engine), table (the engines that a setting can name),
scripted_engine (without a model), vllm_engine. The other modules are parts of the vLLM engine: prompt_rendering with
fast_preprocessing (its inputs), engine_calls, domain_scoring, checkpoint_inspection.
"""
