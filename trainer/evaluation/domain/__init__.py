"""`python -m trainer domain`: describes the pictures that a checkpoint was trained on by statistics of features."""
