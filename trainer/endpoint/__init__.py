"""Asking a model behind an OpenAI-compatible endpoint about many samples; `annotate` and `evaluate` are built on it.

Read in this order: order (what a run is told), options (the same on the command line), client (one request, retried),
pace (when a request may start), budget (what may be spent), workers (all questions of a run), pictures (as an endpoint
takes them).
"""
