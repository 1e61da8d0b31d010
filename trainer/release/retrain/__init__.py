"""`python -m trainer retrain`: from new labels to a promoted model, in stages that can be killed and started again.

Read in this order: command (the options), config (the settings), decide (is there work?), machine (stage after stage),
stages (what each stage does), heavy and worker (the stages that need a GPU, each in a process of its own), lock (one
run at a time, and no stale one), state and ledger (what is remembered), confirm, report, metrics.
"""
