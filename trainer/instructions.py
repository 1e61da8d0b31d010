"""Instructions of the training tasks besides screening itself (that one is `screening.prompt`)."""

DESCRIBE = "Describe the picture."
"""One picture → its caption."""

DESCRIBE_ALL = "Describe every picture."
"""Five pictures → five captions."""

COMPARE = "What differs from the original?"
"""Five pictures → the attributes of each generated one that differ."""
