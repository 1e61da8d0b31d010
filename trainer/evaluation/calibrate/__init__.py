"""`python -m trainer calibrate`: what a checkpoint's probabilities are worth, learned from its own validation answers.

Read in this order: command (the options, and the manifest), evidence (which answers may be used), fit (the curves, and
which kind of them wins).
"""
