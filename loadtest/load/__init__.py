"""Requests: their pictures (`pictures`, `rendered`), their times (`arrivals`, `loops`, `levels`), and `asking`."""
