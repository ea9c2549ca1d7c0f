"""When requests of a load are sent."""

import math

import numpy as np


def arrival_offsets(count: int, *, rate: float, burstiness: float, seed: int) -> list[float]:
    """When requests are sent, in seconds: intervals of a gamma distribution, Poisson's for 1.

    Args:
        rate: requests a second; infinity sends all at once.
        burstiness: the shape of the gamma distribution; below 1 they come in bursts.

    Raises:
        ValueError: one of the two is not positive.
    """
    if rate <= 0 or burstiness <= 0:
        raise ValueError(
            f"request-rate and burstiness must be positive, got {rate} and {burstiness}"
        )
    if math.isinf(rate):
        return [0.0] * count
    rng = np.random.default_rng(seed)
    offsets: list[float] = np.cumsum(rng.gamma(burstiness, 1 / (rate * burstiness), count)).tolist()
    return offsets
