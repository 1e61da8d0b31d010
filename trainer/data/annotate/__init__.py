"""Annotation: a teacher model, or the renderer's own knowledge, writes captions, reasoning and answers (paper, 3.2).

A method says what to ask next (`progressive`, `answer_driven`), `teacher` asks an endpoint (with `trainer.endpoint`),
`replies` keeps every reply on disk, `output` writes the data directory that `trainer sft` reads. `ground_truth` needs
no endpoint.
"""
