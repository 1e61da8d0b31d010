"""Recipes: every setting of a training run, in one YAML file per model.

Unknown keys are refused, so that a typing error fails at once. The resolved recipe is saved with each run, so that the
run can be repeated.

Read in this order: recipe (the whole, and how it is loaded), stages, pretrain, fields.
"""
