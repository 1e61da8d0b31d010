"""`python -m trainer compare`: compares two evaluations of the same questions, sample by sample.

Read in this order: command (the stage), pairs (the two logs side by side), paired (test and interval), report (the
results), flips_page and plot (for people).
"""
