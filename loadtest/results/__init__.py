"""Figures: `record` keeps what happened, `summary` computes figures and verdicts, `plots` draws them."""
