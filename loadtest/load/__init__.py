"""Requests: their pictures (`pictures`, `rendered`), when they are sent (`arrivals`, `loops`, `levels`), and `asking`."""
