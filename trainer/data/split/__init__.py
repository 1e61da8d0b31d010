"""`python -m trainer split`: data directories → training, testing, pseudo-label and exploration (paper, table 1).

Read in this order: command (the options), divide (the stage), gather (what is there), assign (which split, by product),
write (the data directories), frozen (the test set, which never changes again).
"""
