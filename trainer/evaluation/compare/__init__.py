"""`python -m trainer compare`: two evaluations of the same questions, sample by sample.

Read in this order: command (the stage), pairs (the two logs side by side), paired (test and interval), report (the
results), flips_page and plot (to look at).
"""
