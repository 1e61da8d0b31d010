"""Training data: `render` makes it, `import_pairs` imports verdicts, `annotate` adds reasoning, `split` divides it."""
