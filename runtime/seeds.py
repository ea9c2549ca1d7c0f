"""Seeds for requests that bring none."""

import random
from collections.abc import Callable

from runtime.request import MAX_SEED


def seed_source(seed: int | None) -> Callable[[], int]:
    """Gives a seed a call: unpredictable ones, or those that follow from `seed`."""
    numbers = random.SystemRandom() if seed is None else random.Random(seed)
    return lambda: numbers.randint(0, MAX_SEED)
