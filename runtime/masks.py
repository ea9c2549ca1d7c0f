"""The masks of a step whose answers are guided."""

from collections.abc import Sequence

import numpy as np

from runtime.step_plan import Scheduled


def fill_masks(samples: Sequence[Scheduled], *, num_rows: int, num_words: int) -> np.ndarray:
    """What each sampled row may choose, one bit a token: int32 [num_rows, num_words].

    All that came before must be known and accepted. Rows without a guide, and padding, may choose
    everything.
    """
    masks = np.full((num_rows, num_words), -1, np.int32)
    for mask, item in zip(masks, samples, strict=False):
        request = item.request
        # of an answer that has just ended, the token is chosen for nobody
        if request.guide is not None and request.finish_reason is None:
            mask.fill(0)
            request.guide.fill(mask)
    return masks
