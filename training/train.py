"""Trains the demonstration model for a given time and writes it as a GGUF file."""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from jaxtyping import Array
from tokenizers import Tokenizer

from models.config import ModelConfig
from training.corpus import Document, read_corpus
from training.export import NAME, check_vocabulary, write_model
from training.held_out import HeldOut, held_out_rows
from training.model import SIZES, Params, config_of, init_params, logits_of, loss_of
from training.optimizer import Schedule, make_optimizer
from training.stream import row_stream

# rows of a step: 131,072 tokens on a GPU; a CPU only shows that the path is whole
BATCH = {"gpu": 64, "cpu": 4}
DTYPE = {"gpu": "bfloat16", "cpu": "float32"}
ATTENTION = {"gpu": "cudnn", "cpu": "xla"}
LOG_EVERY = 20  # steps; also how many may be queued on the device
NUM_EVALUATIONS = 10
END_SECONDS = {"gpu": 20, "cpu": 3}  # for the last evaluation and the file
PEAK_FLOPS = 790e12  # bf16 products as measured on an H200


@dataclass(frozen=True)
class Trainer:
    """The compiled functions of a run."""

    step: Callable[..., Any]
    evaluate: Callable[..., Array]


def make_trainer(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    *,
    dtype: str,
    attention: str,
) -> Trainer:
    """Step and evaluation, to be compiled at their first call."""
    activations = jnp.dtype(dtype)

    def losses(params: Params, rows: Array) -> Array:
        logits = logits_of(
            config, params, rows[:, :-1], dtype=activations, implementation=attention
        )
        return loss_of(logits, rows[:, 1:].reshape(-1)).reshape(rows.shape[0], -1)

    def step(
        params: Params, state: optax.OptState, rows: Array, rate: Array
    ) -> tuple[Params, optax.OptState, Array, Array]:
        loss, gradient = jax.value_and_grad(lambda p: losses(p, rows).mean())(params)
        updates, state = optimizer.update(gradient, state, params)
        # both optimizers are linear in their rate, decay included
        params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
        return params, state, loss, norm_of(gradient)

    return Trainer(jax.jit(step, donate_argnums=(0, 1)), jax.jit(losses))


def norm_of(params: Params) -> Array:
    """Of all parameters as one vector."""
    return jnp.sqrt(sum(jnp.sum(values**2) for values in params.values()))


def bits_per_byte(trainer: Trainer, params: Params, held_out: HeldOut, batch: int) -> float:
    """Of the held-out text."""
    total = 0.0
    for start in range(0, len(held_out.rows), batch):
        losses = np.asarray(trainer.evaluate(params, held_out.rows[start : start + batch]))
        total += float((losses * held_out.counts[start : start + batch]).sum())
    return total / np.log(2) / held_out.num_bytes


def count_tokens(documents: Sequence[Document], tokenizer: Tokenizer) -> int:
    """Of the training documents, estimated from a hundredth of them."""
    training = [document.text for document in documents if not document.held_out]
    sample = training[::100]
    num_tokens = sum(map(len, tokenizer.encode_batch_fast(sample)))
    return round(num_tokens * sum(map(len, training)) / sum(map(len, sample)))


def flops_per_token(config: ModelConfig) -> float:
    """Of a step: products forward and backward, and causal attention."""
    kv_width = config.num_kv_heads * config.head_dim
    layer = config.width * (2 * config.width + 2 * kv_width + 3 * config.ffn_width)
    products = 6 * (config.num_layers * layer + config.vocab_size * config.width)
    return products + 6 * config.num_layers * config.context_length * config.width


def train(args: argparse.Namespace) -> None:
    """The whole run: data, compilation, steps, evaluation, file."""
    began = time.monotonic()
    platform = "gpu" if jax.default_backend() == "gpu" else "cpu"
    config = config_of(args.size, NAME)
    length, batch = config.context_length + 1, args.batch or BATCH[platform]
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "loss.jsonl").open("w", buffering=1)

    def report(**values: Any) -> None:
        line = json.dumps(values)
        print(line, flush=True)
        log.write(line + "\n")

    workers = max(1, (os.cpu_count() or 1) // 4)
    with row_stream(
        args.corpus, args.tokenizer, length=length, seed=args.seed, workers=workers
    ) as stream:
        tokenizer = Tokenizer.from_file(str(args.tokenizer))
        check_vocabulary(config, tokenizer)
        documents = read_corpus(args.corpus)
        held_out = held_out_rows(
            [document for document in documents if document.held_out],
            tokenizer,
            length,
            batch,
            seed=0,
        )
        params = init_params(config, args.seed)
        optimizer = make_optimizer(args.optimizer, params)
        state = optimizer.init(params)
        trainer = make_trainer(
            config,
            optimizer,
            dtype=DTYPE[platform],
            attention=args.attention or ATTENTION[platform],
        )
        batches = stream.batches(batch)
        compiled = trainer.step.lower(  # type: ignore[attr-defined]
            params, state, jnp.zeros((batch, length), jnp.int32), jnp.float32(0)
        ).compile()
        bits = bits_per_byte(trainer, params, held_out, batch)
        rows = next(batches)
        first = time.monotonic()
        schedule = Schedule(args.minutes * 60 - (first - began) - END_SECONDS[platform])
        report(
            device=jax.devices()[0].device_kind,
            parameters=sum(p.size for p in params.values()),
            tokens_per_step=batch * config.context_length,
            held_out_bytes=held_out.num_bytes,
            corpus_tokens=count_tokens(documents, tokenizer),
            seconds_before=round(first - began, 1),
            optimizer=args.optimizer,
        )
        report(step=0, tokens=0, seconds=0.0, held_out_bits_per_byte=bits)
        step, next_evaluation = 0, 1
        stream.waited = 0.0
        while not schedule.is_over(step, elapsed := time.monotonic() - first):
            rate = schedule.rate(step, elapsed)
            params, state, loss, norm = compiled(params, state, rows, jnp.float32(rate))
            rows = next(batches)
            step += 1
            if step % LOG_EVERY:
                continue
            values = {"loss": float(loss), "gradient_norm": float(norm)}
            seconds = time.monotonic() - first
            tokens = step * batch * config.context_length
            report(
                step=step,
                tokens=tokens,
                seconds=round(seconds, 2),
                rate=round(rate, 5),
                waited=round(stream.waited, 2),
                share_of_peak=round(tokens / seconds * flops_per_token(config) / PEAK_FLOPS, 4),
                **values,
            )
            if not np.isfinite(values["loss"]):
                raise FloatingPointError(f"the loss is {values['loss']} at step {step}")
            if seconds >= next_evaluation / NUM_EVALUATIONS * schedule.seconds:
                bits = bits_per_byte(trainer, params, held_out, batch)
                report(step=step, tokens=tokens, held_out_bits_per_byte=bits)
                next_evaluation += 1
    tokens = step * batch * config.context_length
    bits = bits_per_byte(trainer, params, held_out, batch)
    path = write_model(args.out / "ggjax-demo-coder-q8_0.gguf", config, params, tokenizer)
    report(
        step=step,
        tokens=tokens,
        seconds=round(time.monotonic() - first, 1),
        held_out_bits_per_byte=bits,
        file=path.name,
        file_bytes=path.stat().st_size,
        seconds_in_all=round(time.monotonic() - began, 1),
    )
    log.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="for all, compilation too")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--batch", type=int, help="rows of a step")
    parser.add_argument("--attention", choices=("cudnn", "xla"), help="xla takes more memory")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
