"""Instructions of the training tasks besides screening itself (that one is `screening.prompt`)."""

DESCRIBE = "Describe the picture."
"""One picture → its caption."""

DESCRIBE_ALL = "Describe every picture."
"""Five pictures → five captions."""

COMPARE = "What differs from the original?"
"""Five pictures → for each generated one, which attributes differ."""

INSPECT_ONE = "Inspect the picture."
"""One picture → what light, placement and additions are like; the product cannot be judged without the original."""

INSPECT = "Inspect every picture."
"""Five pictures → for each generated one, what each dimension is like."""
