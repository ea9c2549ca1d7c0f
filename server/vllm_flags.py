"""vLLM's flags that ggjax does not have: those that ask for what is so anyway, and refusals."""

import argparse
import re
import sys
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

EXIT_USAGE = 2

# what vLLM must be asked for and is always so here
ALWAYS = (
    "--enable-chunked-prefill",
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
    "--enable-server-load-tracking",
    "--enable-auto-tool-choice",
    "--exclude-tools-when-tool-choice-none",
    "--async-scheduling",
    "--use-v2-block-manager",
    "--use-tqdm-on-load",
)
# flag: (values that mean what is so here, why there is no other)
ONLY = MappingProxyType(
    {
        "--quantization": (("gguf",), "the GGUF file says how its weights are stored"),
        "--load-format": (("auto", "gguf"), "models are GGUF files"),
        "--pipeline-parallel-size": (("1",), "use --tensor-parallel-size"),
        "--data-parallel-size": (("1",), "start one server for each group of GPUs"),
        "--scheduling-policy": (("fcfs",), "requests are served in the order they come"),
        "--distributed-executor-backend": (("mp",), "one process drives all GPUs"),
        "--tokenizer-mode": (("auto",), "the tokenizer is in the GGUF file"),
        "--config-format": (("auto",), "the configuration is in the GGUF file"),
        "--generation-config": (("vllm",), "requests bring their parameters"),
        "--logprobs-mode": (("raw_logprobs",), "log probabilities are of the unscaled logits"),
        "--tool-call-parser": (("hermes", "qwen25"), "calls are found as Qwen2.5 writes them"),
        "--structured-outputs-config.backend": (("guidance", "auto"), "llguidance compiles them"),
        "--guided-decoding-backend": (("guidance", "auto"), "llguidance compiles them"),
        "--chat-template-content-format": (("auto", "string"), "Qwen2.5's template takes strings"),
        "--response-role": (("assistant",), "the model's chat template knows no other"),
        "--runner": (("auto", "generate"), "one server generates, and gives embeddings"),
        "--task": (("auto", "generate"), "one server generates, and gives embeddings"),
        "--api-server-count": (("1",), "one process speaks HTTP"),
        "--device": (("auto",), "JAX takes what it finds; set JAX_PLATFORMS=cpu for CPUs"),
    }
)
# flag: what to do instead
INSTEAD = MappingProxyType(
    {
        "--tokenizer": "the tokenizer is in the GGUF file: leave this out",
        "--tokenizer-revision": "the tokenizer is in the GGUF file: leave this out",
        "--tool-parser-plugin": "calls are found as Qwen2.5 writes them: leave this out",
        "--reasoning-parser": "no model that is served writes its reasoning: leave this out",
        "--structured-outputs-config": "there is nothing to tune: leave this out",
        "--return-tokens-as-token-ids": "ask for return_token_ids with each request",
        "--enable-per-request-metrics": "see /metrics, and --log-requests",
        "--trust-request-chat-template": "a template is code: use --chat-template",
        "--rope-scaling": "the scaling is in the GGUF file: leave this out",
        "--rope-theta": "the base is in the GGUF file: leave this out",
        "--hf-config-path": "the configuration is in the GGUF file: leave this out",
        "--hf-overrides": "the configuration is in the GGUF file, which is served as it is",
        "--override-generation-config": "give these parameters with each request",
        "--default-chat-template-kwargs": "give chat_template_kwargs with each request",
        "--revision": "fetch that revision with `hf download`, and give the file's path",
        "--download-dir": "set HF_HOME, or give the path of a file",
        "--trust-remote-code": "no code of a model is ever run: leave this out",
        "--enforce-eager": "every step is a compiled program: leave this out",
        "--compilation-config": "there is nothing to tune: leave this out",
        "--no-enable-chunked-prefill": "prompts are always computed in chunks: leave this out",
        "--kv-cache-memory-bytes": "use --gpu-memory-utilization",
        "--num-gpu-blocks-override": "use --gpu-memory-utilization",
        "--swap-space": "nothing is swapped: leave this out",
        "--cpu-offload-gb": "the weights must fit the GPUs: use a smaller quantisation",
        "--speculative-config": "speculative decoding is not implemented: leave this out",
        "--enable-lora": "LoRA adapters are not implemented: serve a merged model",
        "--lora-modules": "LoRA adapters are not implemented: serve a merged model",
        "--enable-expert-parallel": "the models have no experts: leave this out",
        "--limit-mm-per-prompt": "text in, text out: leave this out",
        "--calculate-kv-scales": "the KV cache is not quantised: leave this out",
        "--num-scheduler-steps": "a step never waits for the last one's tokens: leave this out",
        "--max-seq-len-to-capture": "every step is a compiled program: leave this out",
        "--disable-custom-all-reduce": "there is nothing to tune: leave this out",
        "--kv-transfer-config": "nothing is transferred: leave this out",
        "--otlp-traces-endpoint": "no traces are sent: use --profile-dir, /metrics",
        "--max-logprobs": "requests may ask for up to 20: leave this out",
        "--root-path": "let the proxy take the prefix off the path",
        "--ssl-keyfile": "put a proxy in front that speaks TLS",
        "--ssl-certfile": "put a proxy in front that speaks TLS",
        "--uds": "use --host and --port",
        "--allowed-origins": "no other origin is let in; put a proxy in front that adds CORS",
        "--allowed-methods": "no other origin is let in; put a proxy in front that adds CORS",
        "--allowed-headers": "no other origin is let in; put a proxy in front that adds CORS",
        "--allow-credentials": "no other origin is let in; put a proxy in front that adds CORS",
        "--middleware": "put a proxy in front",
        "--uvicorn-log-level": "there is no uvicorn: leave this out",
        "--disable-uvicorn-access-log": "there is no access log: leave this out",
        "--disable-log-stats": "the line of figures comes only while there is work: leave this out",
        "--max-log-len": "prompts are never logged: leave this out",
        "--enable-log-outputs": "outputs are never logged: leave this out",
        "--enable-force-include-usage": "ask for stream_options.include_usage with each request",
        "--shutdown-timeout": "requests have 30 s to finish: leave this out",
        "--config": "write the flags themselves",
        "--ipc": "is a flag of `docker run`, and not needed: no shared memory is used",
        "--shm-size": "is a flag of `docker run`, and not needed: no shared memory is used",
        "--gpus": "is a flag of `docker run`: it stands before the image's name",
    }
)


def add_vllm_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them, hidden from --help; a refusal ends the process with one line."""
    for flag in ALWAYS:
        parser.add_argument(flag, action=_Always, nargs=0, help=argparse.SUPPRESS)
    for flag, (values, reason) in ONLY.items():
        names = (flag, "-q") if flag == "--quantization" else (flag,)
        parser.add_argument(*names, action=_Only, const=(values, reason), help=argparse.SUPPRESS)
    for flag, advice in INSTEAD.items():
        names = (flag, "-O") if flag == "--compilation-config" else (flag,)
        parser.add_argument(
            *names, action=_Instead, nargs="?", const=advice, help=argparse.SUPPRESS
        )


def with_dashes(words: Sequence[str]) -> list[str]:
    """--max_model_len as --max-model-len: vLLM takes both."""
    return [re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in words]


def _say_it_is_so(flag: str) -> None:
    sys.stderr.write(f"ggjax: {flag}: this is always so, and the flag can be left out\n")


class _Always(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        _say_it_is_so(str(option_string))


class _Only(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        known, reason = self.const
        if values not in known:
            names = " or ".join(known)
            parser.exit(EXIT_USAGE, f"ggjax: {option_string} can only be {names}: {reason}\n")
        _say_it_is_so(f"{option_string} {values}")


class _Instead(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.exit(EXIT_USAGE, f"ggjax: {option_string}: {self.const}\n")
