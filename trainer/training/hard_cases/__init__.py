"""Hard cases mining (paper, section 4): stage 2 trains more often on questions that the stage-1 model answers wrong.

Read in this order: command (`python -m trainer hard-cases`), find (the model answers the training set), cases (which
questions are hard), record (`hard-cases.json`), summary (a page), curriculum (the order of stage 2).
"""
