"""The engine process: `python -m runtime.engine_process FD`, FD its end of a socket pair."""

import faulthandler
import logging
import socket
import sys

from runtime.engine_loop import Channel, run_engine


def main() -> int:
    """Runs the engine on the inherited socket; the exit code."""
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of each back end it lacks
    return run_engine(Channel(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    sys.exit(main())
