"""Instructions of the training tasks other than screening, whose prompts are in `screening.prompt`."""

DESCRIBE = "Describe the picture."
"""Asks for the caption of one picture."""

DESCRIBE_ALL = "Describe every picture."
"""Asks for the captions of five pictures."""
