"""The `ggjax` command: serve, run, inspect, bench. Each imports what it needs when it is chosen."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable

from server.api_keys import ApiKeys
from server.flags import make_parser, runtime_config
from server.listener import CannotBind, bind
from server.reader import run_to_exit
from server.vllm_flags import with_dashes

EXIT_USAGE = 2
REQUEST_LOG = "server.request_log"  # the logger of that module


def main() -> None:
    """Runs the command line; exits with its code."""
    run_to_exit(command)


def command() -> int:
    """The command that the command line names; its exit code."""
    if sys.argv[1:2] == ["bench"]:
        from benchmarks.bench import main as bench  # with a command line of its own

        return bench(sys.argv[2:])
    args = make_parser().parse_args(with_dashes(sys.argv[1:]))
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    return COMMANDS[args.command](args)


def serve(args: argparse.Namespace) -> int:
    """`ggjax serve`."""
    try:
        config = runtime_config(args)
        api_keys = ApiKeys(args.api_key, args.api_key_file)
        listener = bind(args.host, args.port)
    except (ValueError, CannotBind) as error:
        return refuse(error)
    if not args.log_requests:
        logging.getLogger(REQUEST_LOG).setLevel(logging.WARNING)
    # after the port is ours: they take most of a second
    from server.serve import serve as run_server
    from server.served_model import ModelOptions

    options = ModelOptions(
        config=config,
        names=tuple(args.served_model_name),
        chat_template=args.chat_template,
        hf_token=args.hf_token,
        profile_dir=args.profile_dir and args.profile_dir.absolute(),
    )
    return asyncio.run(run_server(options, listener, host=args.host, api_keys=api_keys))


def run(args: argparse.Namespace) -> int:
    """`ggjax run`."""
    from runtime.request import SamplingParams
    from server.served_model import ModelOptions
    from server.terminal import converse

    try:
        config = runtime_config(args)
        params = SamplingParams(temperature=args.temperature, max_tokens=args.max_tokens)
    except ValueError as error:
        return refuse(error)
    options = ModelOptions(config=config, chat_template=args.chat_template, hf_token=args.hf_token)
    return asyncio.run(converse(options, args.prompt, params))


def inspect(args: argparse.Namespace) -> int:
    """`ggjax inspect`."""
    from models.errors import ModelFileError
    from server.hub import ModelNotFound, resolve_model
    from server.inspection import inspect_model

    try:
        path = resolve_model(args.model, token=args.hf_token)
        inspect_model(path, args.memory)
    except (ModelNotFound, ModelFileError) as error:
        return refuse(error)
    return 0


def refuse(error: Exception) -> int:
    """One line for the operator, and the exit code of a usage error."""
    sys.stderr.write(f"ggjax: {error}\n")
    return EXIT_USAGE


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": serve,
    "run": run,
    "inspect": inspect,
}

if __name__ == "__main__":
    main()
