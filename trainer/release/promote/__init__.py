"""`promote`, `rollback` and `history` decide and record which published version the alias `production` points to.

Read in this order: command (the stage), evidence (the evaluations of both versions), limits, gate (the criteria),
report, moves (the alias and its history), standing (whether alias and history agree), rollback, history.
"""
