"""A training told in a page: what it is, its curves, and for stage 2 examples of what the model decided."""
