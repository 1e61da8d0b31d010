"""Every default of the client, in one place. Times are in seconds."""

VERSION = "0.1.0"

BASE_URL = "http://localhost:8000"

CONNECT_TIMEOUT = 5.0
WRITE_TIMEOUT = 60.0
READ_TIMEOUT = 120.0
READY_TIMEOUT = 5.0

MAX_RETRIES = 2
FIRST_WAIT = 0.5  # upper end of the random wait before the first retry; doubles with every further one
LONGEST_WAIT = 8.0
LONGEST_RETRY_AFTER = 120.0  # a service that asks for more is obeyed by not retrying at all
PATIENCE = 180.0  # one call: total wait for a service that says when it is back. Bulk: time without any answer

PAGE_SIZE = 100  # decisions of one request of a list

CONCURRENCY = 8
CANCEL_GRACE = 0.5  # how long a cancelled bulk run waits for its threads
POLL_INTERVAL = 0.5
