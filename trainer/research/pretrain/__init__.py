"""`python -m trainer pretrain`: trains a small vision-language model from random weights.

Read in this order: command, pool (pictures), questions and tasks (what is asked about them), tokenizer with vocabulary,
batches, stages (the losses), loop with schedule and muon, scaffold (auxiliary heads), measurements.
"""
