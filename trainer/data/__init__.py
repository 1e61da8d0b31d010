"""Training data: `render` draws it, `import_pairs` imports verdicts, `annotate` adds reasoning, `split` divides it."""
