"""`python -m trainer plan`: estimates the cost of a recipe and checks it, before anything is downloaded or trained.

Read in this order: command, architectures (the model), parameters (counted on torch's meta device), shapes, tokens (the
length of a sample), plan (the stages), schedule (steps), memory (bytes per GPU), checks (problems of the recipe),
report (the page). Schedule, memory, plan and checks are arithmetic without torch.
"""
