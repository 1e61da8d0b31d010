"""`python -m trainer plan`: what a recipe will cost and whether it can work, before anything is downloaded or trained.

Read in this order: command, architectures (which model), parameters (counted on torch's meta device), shapes, tokens
(how long a sample is), plan (the stages), schedule (how many steps), memory (how many bytes per GPU), checks (what
cannot work), report (the page). Schedule, memory, plan and checks are arithmetic without torch.
"""
