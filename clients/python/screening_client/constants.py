"""All defaults and limits of the client. Times are in seconds."""

VERSION = "0.1.0"

BASE_URL = "http://localhost:8000"

CONNECT_TIMEOUT = 5.0
WRITE_TIMEOUT = 60.0
READ_TIMEOUT = 120.0
READY_TIMEOUT = 5.0

MAX_RETRIES = 2
FIRST_WAIT = 0.5  # maximum random wait before the first retry; it doubles with every further retry
LONGEST_WAIT = 8.0  # maximum random wait before any retry
LONGEST_RETRY_AFTER = 120.0  # maximum Retry-After; the client does not retry if the service asks for more
PATIENCE = 180.0  # a single call's total wait for a 503 with Retry-After; in a bulk run, the time without any answer

PAGE_SIZE = 100  # decisions of one request of a list
LARGEST_PAGE = 500  # maximum number of decisions of one request; the service has the same limit

CONCURRENCY = 8
CANCEL_GRACE = 0.5  # maximum time that a cancelled bulk run waits for its threads
POLL_INTERVAL = 0.5
