"""Defines the questions and answers of screening, for the service and the trainer alike.

Only `inference` may import torch and vllm; a test enforces this. Read the modules in this order: task, images, prompt,
answer, confidence, checkpoint.
"""

__version__ = "0.1.0"
