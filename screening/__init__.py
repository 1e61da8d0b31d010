"""What a screening question and its answer *are*: shared by the service and the trainer.

Imports neither torch nor vllm; a test holds that. Read in this order: task, images, prompt, answer,
checkpoint, registry.
"""

__version__ = "0.1.0"
