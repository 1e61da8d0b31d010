"""`python -m trainer ablation`: measure the contribution of each part of the method (paper, tables 4 to 7).

Read in this order: command (the options), variants (the models that the tables compare, and their recipes), tasks (the
commands that train and score them, and their dependencies), runner (run tasks in parallel, and continue after a kill),
tables (scores, intervals and tests next to the paper's).
"""
