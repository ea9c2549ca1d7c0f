"""HTTP: OpenAI's JSON, the command line, the processes. Knows no arrays."""
