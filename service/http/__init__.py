"""The HTTP interface.

Read in this order: routes (`/screen` and the health paths), admin, decisions with decision_bodies, docs. `middleware`,
`trace_requests`, `auth` and `paths` apply to all of them, and `openapi` completes their description.
"""
