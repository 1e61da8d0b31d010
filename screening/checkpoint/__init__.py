"""Checkpoints on disk and in the registry.

Read in this order: manifest (`screening.json`), directory (the verification of files), weights, probes with seal (how a
service verifies what an engine holds), domain (which pictures a checkpoint knows), registry. `regular_file` reads files
safely.
"""
