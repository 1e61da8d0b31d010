"""The renderer: make product pictures with planted defects, labels, captions and reasoning from a seed.

Read in this order: products with packaging, light, scenes, props, staging, defect_kinds, defects, figure, placing,
composition, picture, sample, dataset. Products in photos: cutouts, photo_facts, photo_edits, photo_growth, photo_kinds;
trainer/data/plant makes their samples. It needs only Pillow, numpy and OpenCV.
"""
