"""`python -m trainer ablation`: what each part of the method brings (paper, tables 5 to 7), from one base model.

Read in this order: command (the options), variants (which models the tables compare, and the recipe of each), tasks
(the commands that train and score them, and which needs which), runner (tasks beside each other, killed and gone on
with), tables (scores, intervals and tests, beside the paper's).
"""
