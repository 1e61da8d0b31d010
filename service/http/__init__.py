"""The HTTP interface.

Read in this order: routes (`/screen` and the health paths), admin, decisions with decision_bodies, review, docs.
`middleware`, `trace_requests`, `auth` (with keys and session_token) and `paths` apply to all of them. json_api and
moments read what callers send, and `openapi` completes the description of the paths.
"""
