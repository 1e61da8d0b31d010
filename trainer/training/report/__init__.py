"""`python -m trainer report`: a page about a training, with its settings, curves and, for stage 2, example decisions."""
