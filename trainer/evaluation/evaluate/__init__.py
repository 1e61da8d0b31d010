"""`python -m trainer evaluate`: what a model answers on a data set, and how good that is.

Read in this order: command (the options), by_checkpoint with generate (vLLM answers) or by_endpoint (somebody else's
server does), identity (which evaluation a directory holds), predictions (what was answered, resumable), result (for
programs), report (the page). The numbers themselves are pure functions in `trainer.metrics` and
`trainer.evaluation.reliability`.
"""
