"""How the sums that devices hold parts of are made, and the additions and norms that read them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.add_norm import add

# all_reduce(terms [terms, T, D]): terms of the sum over the devices that each hold a part
type AllReduce = Callable[[Array], Array]
# as `pallas_kernels.add_norm.add_norm`: (x, terms to add, scale, eps) -> (the sum, its norm)
type AddNorm = Callable[[Array, Array, Array, float], tuple[Array, Array]]
# (number of the call, x, terms of this device, scale, eps) -> the same, of all devices' terms
type SumNorm = Callable[[Array, Array, Array, Array, float], tuple[Array, Array]]


def whole(x: Array) -> Array:
    """The all-reduce of a model that is on one device."""
    return x


@dataclass(frozen=True)
class Reduction:
    """How the sums that devices hold parts of are made.

    Attributes:
        sum_norm: the sum together with the addition and norm that read it; None: apart.
    """

    all_reduce: AllReduce = whole
    sum_norm: SumNorm | None = None

    def before_norm(self, terms: Array) -> Array:
        """What is added to the residual stream, before it is."""
        if self.sum_norm is not None:
            return terms
        with jax.named_scope("all_reduce"):
            return self.all_reduce(terms)

    def norm(self, number: Array, add_norm: AddNorm) -> AddNorm:
        """What adds it; `number`: of the addition in the model."""
        return add_norm if self.sum_norm is None else partial(self.sum_norm, number)

    def last(self, number: Array, x: Array, terms: Array, eps: float) -> Array:
        """The addition that no norm follows."""
        if self.sum_norm is None:
            return add(x, terms)
        with jax.named_scope("all_reduce"):
            return self.sum_norm(number, x, terms, jnp.ones(x.shape[1]), eps)[0]


ALONE = Reduction()
