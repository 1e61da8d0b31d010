"""Checkpoints of a running service: which one is served, and how it is replaced and verified.

Read in this order: served (the checkpoint, and what its changes share), startup, engine_start with verification,
hot_swap with swap_preparation, supervisor, registry_watcher. On disk: local_store (copies), swap_history
(`state.json`), store_reads (reads with a time limit).
"""
