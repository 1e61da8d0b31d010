"""People review decisions and label pictures. Exists only with `SCREENING_REVIEW=true` and a decision store.

Read in this order: tasks (which decisions become tasks, by quota), data_import (a data directory becomes tasks), leases
(who works on which task), reviews (what a person submitted), shown (pictures and the model's answer in the order of
display), consensus (the label that follows), statistics with agreement, export, and gold.
"""
