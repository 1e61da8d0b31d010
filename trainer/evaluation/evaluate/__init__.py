"""`python -m trainer evaluate`: has a model answer a data set, and scores the answers.

Read in this order: command (the options), by_checkpoint with generate (vLLM answers) or by_endpoint (a remote server
answers), identity (which evaluation a directory holds), predictions (the log of answers, from which a run resumes),
result (for programs), report (the page). The scores are pure functions in `trainer.metrics`,
`trainer.picture_verdicts` and `trainer.evaluation.reliability`.
"""
