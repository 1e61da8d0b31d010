"""The way of one request from admission to the answer: `screen` reads top to bottom and calls the other modules.

In the order of their use: idempotency, answer (with bounded_cache), coalescing, thread_pools.
"""
