"""Ask a model at an OpenAI-compatible endpoint about many samples. `annotate` and `evaluate` use this package.

Read in this order: order (settings of a run), options (the same on the command line), client (one request with
retries), pace (rate limit), budget (spending limits), workers (all questions of a run), pictures (their encoding).
"""
