"""`python -m trainer gpu-check`: measures time and memory of training steps on a GPU, beside the estimates of `plan`.

A machine with a GPU may have nothing but torch, transformers and accelerate. So the work has two halves. `from_recipe`
turns a recipe into an `order` and needs the trainer's other packages. Everything else reads the order and needs only
these three, and peft for adapters. Read in this order: command, order, from_recipe, model, steps, flops, meter, runner,
processes (two GPUs), report.
"""
