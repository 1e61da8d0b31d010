"""Load tests of a running service: `python -m loadtest bench` and others."""
