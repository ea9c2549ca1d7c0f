"""The command line: flags that mirror RuntimeConfig, nothing heavy imported for --help."""

import argparse
import os
import re
from pathlib import Path

from models import demo
from models.config import PAGE_SIZE
from runtime.config import DTYPES, KV_CACHE_DTYPES, RuntimeConfig, default_cache_dir
from server.vllm_flags import add_vllm_flags

SUFFIXES = {"": 1, "k": 1000, "K": 1024, "m": 10**6, "M": 2**20}
MODEL_HELP = f"a GGUF file, org/repo:quant, org/repo/file.gguf, or {demo.NAME}"


def make_parser() -> argparse.ArgumentParser:
    """`ggjax serve | run | inspect | bench`; bench has its own parser."""
    parser = argparse.ArgumentParser(
        prog="ggjax", description="A JAX/XLA-compiled inference runtime for GGUF models."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="an OpenAI-compatible HTTP server")
    _add_model_flags(serve, default=demo.NAME)
    serve.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    serve.add_argument("--port", type=port, default=8000, help="0 picks one (%(default)s)")
    serve.add_argument(
        "--served-model-name", nargs="+", default=[], metavar="NAME", help="names for requests"
    )
    serve.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="repeatable; asked for if set"
    )
    serve.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="keys, one a line; SIGHUP reads it again"
    )
    serve.add_argument(
        "--log-requests", "--enable-log-requests", action="store_true",
        help="a line for each finished request: counts and times, never a text",
    )  # fmt: skip
    serve.add_argument(
        "--disable-log-requests", "--no-enable-log-requests",
        dest="log_requests", action="store_false", default=False, help=argparse.SUPPRESS,
    )  # fmt: skip
    serve.add_argument(
        "--profile-dir", type=Path, metavar="DIR", help="allows /start_profile, which writes here"
    )
    serve.add_argument("--model", dest="model_flag", metavar="MODEL", help=argparse.SUPPRESS)
    add_vllm_flags(serve)
    run = commands.add_parser("run", help="one answer, or a chat, in the terminal")
    _add_model_flags(run)
    run.add_argument("prompt", nargs="?", help="a message; without one, an interactive chat")
    run.add_argument("--max-tokens", type=int, help="length of an answer (all that fits)")
    run.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (%(default)s)")
    inspect = commands.add_parser("inspect", help="what a model file holds and needs")
    inspect.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    inspect.add_argument("--memory", type=gibibytes, metavar="GIB", help="memory to plan for")
    inspect.add_argument("--hf-token", help="for models on the hub (HF_TOKEN)")
    commands.add_parser("bench", help="latency and throughput, of the engine or of a server")
    return parser


def _add_model_flags(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    add = parser.add_argument
    if default is None:
        add("model", metavar="MODEL", help=MODEL_HELP)
    else:
        add("model", metavar="MODEL", nargs="?", default=default, help=f"{MODEL_HELP} ({default})")
    add(
        "--max-model-len",
        type=context_length,
        help="longest prompt and answer together; 8192, 8k, 8K",
    )
    add("--max-num-seqs", type=int, help="requests that run at once (GPU 128, CPU 8)")
    add("--max-num-batched-tokens", type=int, help="tokens of one step (GPU 2048, CPU 512)")
    add(
        *("--gpu-memory-utilization", "--device-memory-utilization"),
        type=float,
        default=0.92,
        help="share of the memory to use (%(default)s)",
    )
    add("--kv-cache-dtype", default="auto", help=", ".join(KV_CACHE_DTYPES))
    add("--dtype", default="auto", help=", ".join(DTYPES))
    add("--tensor-parallel-size", "-tp", type=int, help="GPUs to shard over (all that fit)")
    add("--block-size", type=int, default=PAGE_SIZE, help="tokens of a page (%(default)s)")
    add("--seed", type=int, help="of requests that bring none (default: a new one each)")
    add("--chat-template", type=Path, metavar="FILE", help="instead of the model's own")
    add(
        "--no-enable-prefix-caching",
        dest="enable_prefix_caching",
        action="store_false",
        help="compute every prompt anew",
    )
    add(
        "--batch-invariant",
        action="store_true",
        help="the same bits for a request whatever else runs; slower",
    )
    add("--enable-prefix-caching", action="store_true", default=True, help=argparse.SUPPRESS)
    add(
        "--compilation-cache-dir",
        type=folder,
        default=default_cache_dir(),
        metavar="DIR",
        help="where compiled programs are kept (%(default)s)",
    )
    add("--hf-token", help="for models on the hub (HF_TOKEN)")


def runtime_config(args: argparse.Namespace) -> RuntimeConfig:
    """The configuration that the flags spell.

    Raises:
        ValueError: a value is out of range.
    """
    return RuntimeConfig(
        model=_model(args),
        max_model_len=args.max_model_len,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        gpu_memory_utilization=args.gpu_memory_utilization,
        kv_cache_dtype=args.kv_cache_dtype,
        dtype=args.dtype,
        tensor_parallel_size=args.tensor_parallel_size,
        block_size=args.block_size,
        seed=args.seed,
        enable_prefix_caching=args.enable_prefix_caching,
        batch_invariant=args.batch_invariant,
        compilation_cache_dir=args.compilation_cache_dir,
    )


def _model(args: argparse.Namespace) -> str:
    flag: str | None = getattr(args, "model_flag", None)  # vLLM's form, of `serve` alone
    if flag is None:
        return str(args.model)
    if args.model not in (flag, demo.NAME):
        raise ValueError(f"{args.model} and --model {flag}: give the model once")
    return flag


def folder(text: str) -> str:
    """A path that does not depend on where the engine runs."""
    if not text:
        raise argparse.ArgumentTypeError("names no folder")
    return os.path.abspath(text)


def tokens(text: str) -> int:
    """8192, 8k (8,000) or 8K (8,192), as vLLM reads them."""
    match = re.fullmatch(r"(\d{1,9})([kKmM]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens, such as 8192 or 8K")
    return int(match[1]) * SUFFIXES[match[2]]


def context_length(text: str) -> int | None:
    """A number of tokens; None for vLLM's "auto" and -1: the longest that fits."""
    return None if text in ("auto", "-1") else tokens(text)


def port(text: str) -> int:
    """A TCP port."""
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def gibibytes(text: str) -> int:
    """80 or 80.5, as bytes."""
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of GiB")
    return int(float(text) * 2**30)
