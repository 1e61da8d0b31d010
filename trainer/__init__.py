"""A retraining, stage by stage: `python -m trainer --help` lists the commands."""
