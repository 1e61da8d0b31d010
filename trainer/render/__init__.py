"""The renderer: seed → product pictures with planted defects, labels, captions and reasoning.

Read in this order: products (and cutouts), light, scenes, props, defects, figure, placing, composition, picture,
sample, dataset. Pillow and numpy only.
"""

from trainer.render.cutouts import CutOut, CutOutError, load_cutouts
from trainer.render.defects import DIMENSION_WEIGHTS, KINDS, SEVERITIES, Defect, plan_defects
from trainer.render.picture import Shot, draw_generated, draw_original
from trainer.render.products import Product, make_product
from trainer.render.sample import Sample, comment_on, make_sample
from trainer.render.scenes import SETTINGS

__all__ = [
    "DIMENSION_WEIGHTS",
    "KINDS",
    "SETTINGS",
    "SEVERITIES",
    "CutOut",
    "CutOutError",
    "Defect",
    "Product",
    "Sample",
    "Shot",
    "comment_on",
    "draw_generated",
    "draw_original",
    "load_cutouts",
    "make_product",
    "make_sample",
    "plan_defects",
]
