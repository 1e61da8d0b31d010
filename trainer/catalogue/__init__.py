"""`python -m trainer screen-dataset`: screens a data set of questions, on one machine or on many with Ray Data.

Read in this order: command (the options), run (from the input to the summary), sources and plan (which records belong
to which block), worker with records, pictures, engine and columns (how a block is screened), parts (what is written),
local and on_ray (who screens the blocks).
"""
