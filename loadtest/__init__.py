"""Driving a running service from outside: `python -m loadtest bench`."""
