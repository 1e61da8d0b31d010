"""`python -m trainer import-pairs`: verdicts on single generated pictures → questions of four.

Most shops have verdicts per picture: an original, one generated picture, usable or not. Read in this order: command
(the options), rows (files of any form → rows), pairs (rows → pairs of pictures with a verdict), download (pictures that
are named by URL), group (pairs → questions of four), write (the data directory and what was left over).
"""
