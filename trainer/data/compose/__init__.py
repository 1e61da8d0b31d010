"""Composing candidates: four generated pictures of each real product photo (paper, section 3.1).

Read in this order: sources, segmenter (with segmenters/), cutout, layout, canvas, inpainter (with inpainters/), paste,
measure, sample, run. licences and weights say what may be loaded; failures names every reason for a missing sample.
"""
