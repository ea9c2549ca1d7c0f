"""What limits keep of a distribution, by sorting."""

import numpy as np


def kept_probabilities(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    """The distribution that is meant, by sorting."""
    z = logits.astype(np.float64) / temperature
    probs = np.exp(z - z.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    if top_k:
        probs[order[top_k:]] = 0
    share = np.cumsum(probs[order])
    before = share - probs[order]
    if top_p < 1:
        probs[order[before >= top_p * probs.sum()]] = 0
    probs[probs < min_p * probs.max()] = 0
    return probs / probs.sum()


def scores(vocab: int, spread: float) -> np.ndarray:
    return np.random.default_rng(vocab).normal(0, spread, vocab).astype(np.float32)


LIMITS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 64},
    {"top_k": 300},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"min_p": 0.3},
    {"min_p": 0.001},
    {"top_k": 20, "top_p": 0.7},
    {"top_k": 200, "top_p": 0.8, "min_p": 0.02},
    {"top_p": 0.9, "min_p": 0.05},
    {"top_k": 10, "top_p": 0.9, "temperature": 0.5},
    {"temperature": 3.0},
]


def wider(limits: dict[str, float]) -> dict[str, float]:
    return {
        name: {"top_p": value + 1e-4, "min_p": value * (1 - 1e-4)}[name]
        for name, value in limits.items()
        if name in ("top_p", "min_p")
    }
