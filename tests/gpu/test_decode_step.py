"""Rotation, KV write and attention in one kernel, on the card."""

import numpy as np
import pytest

from pallas_kernels.paged_decode import choose_config
from tests.pallas_kernels.test_decode_step import one_by_one, operands, run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("group", "num_terms"), [(1, 1), (7, 4), (5, 2), (16, 1)])
@pytest.mark.parametrize("rows", [1, 3, 33, 128, 300])
def test_it_is_one_after_the_other(rows, group, num_terms, dtype):
    rng = np.random.default_rng(rows)
    pages_each = 24 if rows < 10 else 6
    positions = rng.integers(0, 64 * pages_each, rows)
    positions[3::5] = -1
    positions[::4] -= positions[::4] % 64  # the first of a page
    given = operands(positions, 2, group, pages_each, num_terms=num_terms, dtype=dtype, seed=rows)
    out, *pages = run(given, choose_config(rows, 2, pages_each))
    wanted, *wanted_pages = one_by_one(*given)
    for ours, theirs in zip(pages, wanted_pages, strict=True):
        # NaN and inf would differ; a last bit may, for sums are fused otherwise
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=2**-7, atol=1e-6)
    ours = np.asarray(out, np.float32)
    assert not ours[positions < 0].any()
    assert np.linalg.norm(ours - np.float32(wanted)) <= 4e-3 * np.linalg.norm(wanted)
