"""`python -m trainer import-pairs`: group verdicts on single generated pictures into questions of four.

Most shops have verdicts per picture: an original, one generated picture, usable or not. Read in this order: command
(the options), rows (files → rows), pairs (rows → pairs of pictures with a verdict), download (pictures that are given
by URL), group (pairs → questions of four), write (the data directory and the pairs that are left over).
"""
