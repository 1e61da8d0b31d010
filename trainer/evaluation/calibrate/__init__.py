"""`python -m trainer calibrate`: calibrates a checkpoint's confidence on its answers to validation data.

Read in this order: command (the options, and the manifest), evidence (which answers may be used), fit (the curves, and
the choice among them).
"""
