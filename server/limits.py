"""What one client may ask for and how long things may take."""

MAX_BODY_BYTES = 4 * 2**20
MAX_JSON_DEPTH = 64
MAX_MESSAGES = 2048
MAX_CHOICES = 256  # prompts times n of one call
MAX_QUEUED = 1024  # requests beyond those that the engine runs at once
MAX_EXTRA_FILES = 256  # of one /infill
MAX_REQUESTS_PER_KEY = 512  # at once, where there are several keys
MAX_CACHE_SALT = 128  # characters
MAX_TOOLS = 128
MAX_PRIORITY = 2**31 - 1
MAX_PENDING = 8192  # tokens waiting for one slow reader

BODY_SECONDS = 30.0
HEADER_SECONDS = 10.0
MAX_CONNECTIONS = 4096
WRITE_SECONDS = 30.0
PING_SECONDS = 15.0
# clients wait for 600 s; who is served later has left
QUEUE_SECONDS = 600.0
REQUEST_SECONDS = 3600.0
KEEP_ALIVE_SECONDS = 75.0
DRAIN_SECONDS = 30.0
CLOSE_SECONDS = 2.0  # for handlers to say goodbye
ENGINE_EXIT_SECONDS = 10.0
# A step of the engine; on a CPU, of a large model and a long prompt.
STEP_SECONDS = {"gpu": 60.0, "cpu": 600.0}
RETRY_AFTER_SECONDS = 2
