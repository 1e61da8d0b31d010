"""`python -m trainer split`: divide data into training, testing, pseudo-label and exploration (paper, table 1),
and validation data if they are asked for.

Read in this order: command (the options), divide (the stage), gather (read all samples), assign (choose a split by
product), write (the data directories), frozen (the test set, which never changes), held_out (samples that repeat it).
"""
