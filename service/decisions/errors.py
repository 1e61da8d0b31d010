"""Errors of the decision store. This module needs no database library, so that a service without a store loads none."""


class DatabaseError(Exception):
    """The database cannot be used; the message says why and what to do."""


class PictureStoreError(Exception):
    """The store cannot be used now; the message says why."""
