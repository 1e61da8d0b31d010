"""Stores decisions and feedback for the people who review them; off unless `SCREENING_DECISIONS` names a database.

Read in this order: tables (what is kept), record (one decision as the request path hands it over), writer (off the
request path, into pictures and database), picture_store, database (connections and versions of the schema), reading and
feedback (what the HTTP interface asks), erasure (deletion on demand and by age), orphans (what killed services left).
"""
