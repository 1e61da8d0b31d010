"""`python -m trainer evaluate`: what a checkpoint answers on a data set, and how good that is.

Read in this order: command (the stage), generate (vLLM), predictions (what was answered, resumable), report (the page).
The numbers themselves are pure functions in `trainer.scores` and `trainer.reliability`.
"""
