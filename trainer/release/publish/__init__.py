"""Publishes a checkpoint: real engines record its probes, and a verified copy goes into a store."""
