"""`promote`, `rollback` and `history`: which published version the alias `production` names, and why.

Read in this order: command (the stage), evidence (what both versions answered), limits, gate (the criteria), report,
moves (the alias and its history), standing (do alias and history agree), rollback, history.
"""
