"""How the pictures of the tests' small checkpoints are prepared."""

from screening.checkpoint.manifest import ImageContract

SMALL = ImageContract(size=64, tokens_per_picture=4)
"""Of the fixture `small_checkpoint`."""
