"""Every default of the client, in one place. Times are in seconds."""

VERSION = "0.1.0"

BASE_URL = "http://localhost:8000"

CONNECT_TIMEOUT = 5.0
WRITE_TIMEOUT = 60.0
READ_TIMEOUT = 120.0
READY_TIMEOUT = 5.0

MAX_RETRIES = 2
FIRST_WAIT = 0.5  # doubles with every retry
LONGEST_WAIT = 8.0
JITTER = 0.25  # at most this part is taken off at random, so that clients turned away together come back apart
LONGEST_RETRY_AFTER = 120.0  # a service that asks for more is obeyed by not retrying at all
PATIENCE = 180.0  # in all, for a service that says when it is back (503 with Retry-After): such waits are no retries

CONCURRENCY = 8
POLL_INTERVAL = 0.5
