"""Stage 1: supervised fine-tuning. Read in this order: command, train (the stage), rows, agreement, answer_length."""
