"""The model card: data, curve, numbers, samples, and what the model cannot do."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import model_config
from models.gguf_file import open_gguf
from training.picture import draw
from training.samples import MAX_TOKENS, Sample

CARD, CURVE = "model_card.md", "loss_curve.svg"

TEMPLATE = Path(__file__).with_name("card.md")


@dataclass(frozen=True)
class Facts:
    """What the card says, as measured."""

    model: Path
    log: list[dict[str, Any]]
    manifest: dict[str, Any]
    bits: float
    ngram_bits: float
    ngram_share: float
    num_bytes: int
    samples: Sequence[Sample]


def write_card(folder: Path, facts: Facts) -> None:
    """Writes the card and the picture of the curve."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CURVE).write_text(_curve(facts.log))
    (folder / CARD).write_text(_card(facts))


def _curve(log: Sequence[dict[str, Any]]) -> str:
    losses = [(line["tokens"] / 1e6, line["loss"] / math.log(2)) for line in log if "loss" in line]
    held_out = [
        (line["tokens"] / 1e6, line["held_out_bits_per_byte"])
        for line in log
        if "held_out_bits_per_byte" in line
    ]
    return draw(
        {"loss, bits a token": losses, "held-out, bits a byte": held_out},
        title="Training of the demonstration model",
        x_label="million tokens",
        max_y=6.0,
    )


def _card(facts: Facts) -> str:
    file = open_gguf(facts.model)
    config = model_config(file)
    first = next(line for line in facts.log if "device" in line)
    last = facts.log[-1]
    sources = facts.manifest["sources"]
    licences = Counter(source["licence"] for source in sources)
    epoch_tokens = first["corpus_tokens"]
    return TEMPLATE.read_text().format(
        name=config.name,
        layers=config.num_layers,
        width=config.width,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        ffn=config.ffn_width,
        vocab=config.vocab_size,
        context=config.context_length,
        parameters=first["parameters"],
        file_bytes=file.num_bytes,
        device=first["device"],
        optimizer={"adamw": "AdamW", "muon": "Muon and AdamW"}[first["optimizer"]],
        minutes=last["seconds_in_all"] / 60,
        tokens=last["tokens"],
        epochs=last["tokens"] / epoch_tokens,
        files=facts.manifest["files"],
        megabytes=facts.manifest["bytes"] / 1e6,
        packages=len(sources) - 1,
        licences=", ".join(f"{name} ({count})" for name, count in licences.most_common()),
        held_out=facts.manifest["held_out_files"],
        curve=CURVE,
        bits=facts.bits,
        ngram_bits=facts.ngram_bits,
        ngram_share=facts.ngram_share,
        num_bytes=facts.num_bytes,
        max_tokens=MAX_TOKENS,
        samples="\n".join(map(_shown, facts.samples)),
    )


def _shown(sample: Sample) -> str:
    # four backticks, for answers have fences of three
    return (
        f"### {sample.title}\n\nPrompt:\n\n````text\n{sample.prompt}\n````\n\n"
        f"Answer:\n\n````text\n{sample.answer}\n````\n"
    )
