"""`python -m trainer collect`: makes a data directory from the verdicts that people gave on the review page.

Read in this order: command (the options), snapshot (the stage, and the manifest), service (the HTTP client), export
(the reviews as the service states them), samples (which reviews become samples, and how).
"""
