"""`python -m trainer retrain`: from new labels to a promoted model, in stages that can be killed and started again.

Read in this order: command (the options), config (the settings), decide (is there work?), machine (stage after stage),
stages (what each stage does), heavy and worker (the stages that need a GPU, each in its own process), lock (one run at
a time; a stale run changes nothing), state and ledger (stored between calls), confirm, report, metrics.
"""
