"""Errors of the decision store. This module needs no database library, so that a service without a store loads none."""


class DatabaseError(Exception):
    """The database cannot be used; the message says why and what to do."""


class WrongAddress(DatabaseError):
    """No database is given, or its address has a form that cannot be used; the same command would fail again."""


class DatabaseUnreachable(DatabaseError):
    """The database does not answer now. It may answer later, and nothing has to be changed for that."""


class PictureStoreError(Exception):
    """The store cannot be used now; the message says why."""


def first_line(error: Exception) -> str:
    """An error in one line. Further lines hold a query with its values, such as comments, or details of a store."""
    return str(error).partition("\n")[0][:300]
