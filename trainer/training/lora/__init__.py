"""LoRA and QLoRA: training adapters in place of all weights, and merging them into a normal checkpoint.

`layers` chooses the layers that get an adapter, by names alone. `model` loads, wraps and merges models with peft.
`merged_weights` gives them to the engine of rollouts. `four_bits` corrects how bitsandbytes computes with QLoRA on a
CPU.
"""
