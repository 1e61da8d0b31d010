"""Annotation: a teacher model, or the renderer's record of its defects, provides captions, reasoning and answers.

See section 3.2 of the paper. A method (`progressive`, `answer_driven`) decides what to ask next. `teacher` asks an
endpoint through `trainer.endpoint`, `replies` stores every reply on disk, and `output` writes the data directory that
`trainer sft` reads. `ground_truth` needs no endpoint.
"""
