"""Evaluation: `evaluate` scores a checkpoint, `compare` two; `calibrate` and `domain` extend its manifest."""
