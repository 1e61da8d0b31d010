"""The renderer: make product pictures with planted defects, labels, captions and reasoning from a seed.

Read in this order: products with packaging, light, scenes, props, staging, defect_kinds, defects, figure, placing,
composition, picture, sample, dataset. Products in photos: cutouts, photo_facts, photo_edits, photo_growth, photo_kinds;
trainer/data/plant makes their samples. It needs only Pillow, numpy and OpenCV.
"""

from trainer.data.render.cutouts import CutOut
from trainer.data.render.defect_kinds import KINDS
from trainer.data.render.defects import DIMENSION_WEIGHTS, SEVERITIES, plan_defects
from trainer.data.render.picture import Shot, draw_generated, draw_original
from trainer.data.render.products import Product, make_product
from trainer.data.render.sample import Sample, comment_on, make_sample
from trainer.data.render.scenes import SETTINGS
from trainer.data.render.staging import Defect

__all__ = [
    "DIMENSION_WEIGHTS",
    "KINDS",
    "SETTINGS",
    "SEVERITIES",
    "CutOut",
    "Defect",
    "Product",
    "Sample",
    "Shot",
    "comment_on",
    "draw_generated",
    "draw_original",
    "make_product",
    "make_sample",
    "plan_defects",
]
