"""`python -m trainer report`: a page with the settings, curves and example decisions of a training."""
