"""Labelled samples from a shop's photos: real cut-outs in real scenes, with planted defects (`render --products`).

compose cuts the products out; render makes the pictures and writes the labels. Read order, then sample, then run.
"""
