"""`python -m trainer pseudo-label`: self-training on questions without labels (the paper's exploration split).

Read in this order: command (the options), label (the stage), orders and answers (ask a checkpoint in several picture
orders), consensus and reasoning (what the orders agree on), select (which pseudo-labels are kept), output and report
(what is written).
"""
