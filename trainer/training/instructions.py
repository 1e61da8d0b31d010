"""Instructions of the training tasks besides screening itself (that one is `screening.prompt`)."""

DESCRIBE = "Describe the picture."
"""One picture → its caption."""

DESCRIBE_ALL = "Describe every picture."
"""Five pictures → five captions."""
