"""The online screening service.

A request passes through `http` (middleware and routes), `admission`, `request` (its body), `pipeline` and `engines`.
"""
