"""The HTTP interface for reviewers and leads: `/review`.

Read in this order: routes (tasks, leases and reviews of a person) with views and bodies, lead_routes (making tasks,
statistics, export) with lead_bodies, session (signing in), pages (HTML). access and common serve all of them. The
rules of reviewing are in `service.review`.
"""
