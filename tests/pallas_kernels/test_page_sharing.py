"""Consumers read every page that their tile needs, once for all tiles of one context."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.page_sharing import same_pages, share_pages


@pytest.mark.parametrize(
    ("num_blocks", "group", "num_consumers", "pages_per_step"),
    [(5, 1, 2, 2), (4, 1, 3, 1), (3, 2, 3, 2), (3, 3, 2, 1), (2, 7, 2, 2)],
)
def test_streams_hold_what_their_consumers_need(num_blocks, group, num_consumers, pages_per_step):
    rng = np.random.default_rng(0)
    share = jax.jit(
        partial(
            share_pages, group=group, num_consumers=num_consumers, pages_per_step=pages_per_step
        )
    )
    for _ in range(50):
        owners, num_pages = rng.integers(0, (3, 6), (num_blocks, 2)).T
        same = np.concatenate([[False], owners[1:] == owners[:-1]])
        shares = [np.asarray(x) for x in share(num_pages, same)]
        check_streams(owners, num_pages, shares, group, pages_per_step)


def check_streams(owners, num_pages, shares, group, pages_per_step):
    first, num_steps, pages = shares
    num_consumers = first.shape[1]
    tiles = len(owners) * group
    for instance in range(first.shape[0]):
        stream = {}  # step -> context
        for consumer in range(num_consumers):
            tile = instance * num_consumers + consumer
            steps = range(num_steps[instance, consumer])
            if tile >= tiles:
                assert not steps
                continue
            need = num_pages[tile // group]
            assert len(steps) == -(-need // pages_per_step)
            assert pages[instance, consumer] >= need
            for i in steps:
                # the same context at the same place, with all the pages that anyone asks of it
                content = (owners[tile // group], i, pages[instance, consumer])
                assert stream.setdefault(first[instance, consumer] + i, content) == content
        assert set(stream) == set(range(len(stream)))
        alone = {owners[t // group] for t in range(instance * num_consumers, tiles)[:num_consumers]}
        if len(alone) == 1:
            assert len(stream) == num_steps[instance].max()


def test_the_example():
    def steps(same):
        shares = share_pages(
            jnp.array([2, 3]),
            jnp.array([False, same]),
            group=3,
            num_consumers=2,
            pages_per_step=1,
        )
        return [
            [(int(f), int(f + n) - 1) for f, n in zip(*row, strict=True)]
            for row in zip(shares.first, shares.num_steps, strict=True)
        ]

    assert steps(True) == [[(0, 1), (0, 1)], [(0, 1), (0, 2)], [(0, 2), (0, 2)]]
    assert steps(False) == [[(0, 1), (0, 1)], [(0, 1), (2, 4)], [(0, 2), (0, 2)]]


@pytest.mark.parametrize("last", [3, 4])
def test_contexts_are_the_same_where_all_pages_are(last):
    tables = jnp.array([[1, 2, 3], [1, 2, last]])
    assert same_pages(tables).tolist() == [False, last == 3]
