"""Activation patching: which layer and which token carry the order of two names.

`def f(left, right): return left -` goes on with `right`; with the names exchanged it goes on with
`left`. The residual stream of the first run replaces that of the second at one layer and one token
at a time, and the picture shows how much of the answer comes with it: all of it and more at the
name read last, from where it moves on to the last token in the upper layers. All runs are requests
of one call, each with its own patch: they share the batches and one compiled program.

    python -m examples.activation_patching
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ggjax import LLM, Patch, SamplingParams

CLEAN = "def f(left, right):\n    return left -"
CORRUPTED = "def f(right, left):\n    return right -"
ANSWERS = (" right", " left")


def main(llm: LLM, directory: Path) -> np.ndarray:
    """Draws the share of the answer that each patch restores: [layers, tokens]."""
    one = SamplingParams(temperature=0, max_tokens=1)
    streams = [site for site in llm.sites if site.endswith("resid_post")]
    clean, corrupted = llm.generate([CLEAN, CORRUPTED], one, capture=[*streams, "logits"])
    places = range(len(clean.prompt_token_ids))
    assert len(corrupted.prompt_token_ids) == len(places)
    patches = [[Patch(site, clean, positions=place)] for site in streams for place in places]
    patched = llm.generate(
        [CORRUPTED] * len(patches), one, capture=["logits"], interventions=patches
    )

    right, left = (llm.tokenize(answer)[0] for answer in ANSWERS)
    lead, low, high = (
        np.array([output.captured["logits"][-1, [right, left]] for output in outputs])
        for outputs in (patched, [corrupted], [clean])
    )
    restored = (np.diff(low) - np.diff(lead)) / (np.diff(low) - np.diff(high))
    restored = restored.reshape(len(streams), len(places))

    figure, axes = plt.subplots(figsize=(9, 3.2))
    limit = np.abs(restored).max()
    image = axes.imshow(restored, vmin=-limit, vmax=limit, cmap="RdBu", aspect="auto")
    names = zip(clean.prompt_token_ids, corrupted.prompt_token_ids, strict=True)
    axes.set_xticks(places, [_both(llm, *pair) for pair in names])
    axes.set_yticks(range(len(streams)), [f"layer {i}" for i in range(len(streams))])
    axes.invert_yaxis()
    axes.set_xlabel("token patched; where the runs differ: clean above, corrupted below")
    axes.set_title(f"what one patch restores of the lead of {ANSWERS[0]!r} over {ANSWERS[1]!r}")
    figure.colorbar(image, label="share (1: all of it)")
    picture = directory / "activation_patching.svg"
    figure.savefig(picture, bbox_inches="tight")
    plt.close(figure)
    print(picture)
    return restored


def _both(llm: LLM, clean: int, corrupted: int) -> str:
    ids = [clean] if clean == corrupted else [clean, corrupted]
    return "\n".join(repr(llm.detokenize([i]))[1:-1].replace(" ", "·") for i in ids)


if __name__ == "__main__":
    with LLM("demo", max_model_len=512) as llm:
        main(llm, Path())
