"""The command line of `ggjax bench`: vLLM's names and defaults, where it has them."""

import argparse
import dataclasses
import math
from pathlib import Path

from benchmarks.target import ENDPOINTS
from models import demo
from runtime.config import RuntimeConfig

DATASETS = ("random", "sharegpt", "sharegpt-like")
ENGINE_FLAGS = {
    "max_model_len": int,
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "gpu_memory_utilization": float,
    "kv_cache_dtype": str,
    "dtype": str,
    "tensor_parallel_size": int,
    "compilation_cache_dir": str,
}


def make_parser() -> argparse.ArgumentParser:
    """`ggjax bench latency | throughput | serve`."""
    parser = argparse.ArgumentParser(
        prog="ggjax bench", description="Measures the engine in this process, or a server."
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    latency = kinds.add_parser("latency", help="seconds of one batch, in this process")
    _add_engine(latency)
    add = latency.add_argument
    add("--input-len", type=int, default=32, help="tokens of each prompt (%(default)s)")
    add("--output-len", type=int, default=128, help="tokens of each answer (%(default)s)")
    add("--batch-size", type=int, default=8, help="requests together (%(default)s)")
    add("--n", type=int, default=1, help="answers to each prompt (%(default)s)")
    add("--num-iters-warmup", type=int, default=10, help="not counted (%(default)s)")
    add("--num-iters", type=int, default=30, help="counted (%(default)s)")
    throughput = kinds.add_parser("throughput", help="many requests at once, in this process")
    _add_engine(throughput)
    _add_dataset(throughput)
    throughput.add_argument("--n", type=int, default=1, help="answers to each prompt")
    throughput.add_argument("--num-prompts", type=int, default=1000, help="(%(default)s)")
    _add_serve(kinds.add_parser("serve", help="a load on a server that runs"))
    for kind in kinds.choices.values():
        kind.add_argument(
            "--compare",
            nargs="+",
            type=Path,
            metavar="JSON",
            help="measure nothing: ratios of the figures in these result files",
        )
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default=demo.NAME, help="path of a GGUF file (%(default)s)")
    fields = {field.name: field.default for field in dataclasses.fields(RuntimeConfig)}
    for name, kind in ENGINE_FLAGS.items():
        add(f"--{name.replace('_', '-')}", type=kind, default=fields[name], help="as of serve")
    add("--enable-prefix-caching", action="store_true", help="off here, unlike in serve")
    add("--seed", type=int, default=0, help="of lengths, prompts and answers (%(default)s)")
    add("--temperature", type=float, default=1.0, help="0 is greedy (%(default)s)")
    add("--output-json", type=Path, metavar="FILE", help="where the figures are saved")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset-name", choices=DATASETS, default="random", help="(%(default)s)")
    add("--dataset-path", type=Path, metavar="FILE", help="ShareGPT's JSON")
    add("--sharegpt-output-len", type=int, help="of every answer, instead of its own")
    add("--random-input-len", "--input-len", type=int, default=1024, help="(%(default)s)")
    add("--random-output-len", "--output-len", type=int, default=128, help="(%(default)s)")
    add("--random-range-ratio", type=float, default=0.0, help="lengths of ± so much (0)")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--backend", choices=tuple(ENDPOINTS), default="openai", help="(%(default)s)")
    add("--base-url", help="instead of host and port")
    add("--host", default="127.0.0.1", help="(%(default)s)")
    add("--port", type=int, default=8000, help="(%(default)s)")
    add("--endpoint", help="path of the route (the backend's)")
    add("--model", help="its name (the first that the server lists)")
    add("--served-model-name", help="its name in requests, if another")
    add("--header", nargs="+", default=[], metavar="KEY=VALUE", help="of each request")
    _add_dataset(parser)
    add(
        "--num-prompts",
        type=int,
        nargs="+",
        default=[1000],
        help="requests of a load; or one number for each of --max-concurrency (1000)",
    )
    add("--max-concurrency", type=int, nargs="+", help="requests at once; several: one load each")
    add("--request-rate", type=float, default=math.inf, help="requests a second (inf)")
    add("--burstiness", type=float, default=1.0, help="1: Poisson; below: bursts (%(default)s)")
    add("--num-warmups", type=int, default=0, help="requests before each load (%(default)s)")
    add(
        "--ready-check-timeout-sec",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for the server to be ready (%(default)s)",
    )
    add("--workers", type=int, default=1, help="processes that send and read (%(default)s)")
    add("--seed", type=int, default=0, help="of lengths, prompts and times (%(default)s)")
    add("--vocab-size", type=int, help="ids of random prompts (the server's; else 1000)")
    add("--ignore-eos", action="store_true", help="answers end at their length alone")
    add("--temperature", type=float, help="of requests (the server's default)")
    add("--top-p", type=float, help="of requests")
    add("--top-k", type=int, help="of requests")
    add("--percentile-metrics", default="ttft,tpot,itl", help="of ttft,tpot,itl,e2el (%(default)s)")
    add("--metric-percentiles", default="99", help="50,99,99.9 … (%(default)s)")
    add("--goodput", nargs="+", default=[], metavar="METRIC:MS", help="ttft:200 tpot:20 e2el:9000")
    add("--label", help="the name of the run (the backend's)")
    add("--metadata", nargs="+", default=[], metavar="KEY=VALUE", help="more fields of the result")
    add("--save-result", action="store_true", help="write a JSON file for each load")
    add("--save-detailed", action="store_true", help="with each request's times and text")
    add("--result-dir", type=Path, default=Path("."), help="(%(default)s)")
    add("--result-filename", help="of the file (made of label, rate, concurrency, model and time)")
    add("--report", type=Path, metavar="FILE.html", help="a page with latency against load")
