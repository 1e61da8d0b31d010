"""Evaluation: `evaluate` scores a checkpoint, `compare` tests differences, `calibrate` and `domain` extend a manifest."""
