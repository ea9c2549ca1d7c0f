"""The served weights as an ordinary function of JAX: logits and inner values of one sequence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from models.config import ModelConfig, model_config
from models.dense_attention import make_dense_attention
from models.gguf_file import open_gguf
from models.load import load_model
from models.mesh import make_mesh
from models.sites import Recorder, expand_sites, site_shapes
from models.weights import PLAIN, Dense
from runtime.part import Part, take_apart

# name -> weight, as `param_names` spells it
type Params = dict[str, Array]
type Record = dict[str, Array]


@dataclass(frozen=True)
class PureModel:
    """What the step serves, without pages and batches: jit it, vmap it, differentiate it."""

    config: ModelConfig
    decoder: Part
    head: Part

    @property
    def params(self) -> Params:
        """The weights on the device by name, for instance `layers.3.mlp.down`; no copies."""
        names = param_names(self.decoder) + param_names(self.head, "head.")
        return dict(zip(names, self.decoder.leaves + self.head.leaves, strict=True))

    def forward(
        self,
        params: Params,
        tokens: Int[Array, " T"],
        *,
        capture: str | Sequence[str] = (),
        hooks: Mapping[str, Callable[[Array], Array]] | None = None,
        embeddings: Float[Array, "T D"] | None = None,
    ) -> tuple[Float[Array, "T V"], Record]:
        """Scores of each next token, float32, and the values at the sites of `capture`.

        Pure and traceable. The attention is dense: its work and memory grow with T squared.

        Args:
            params: all of `params`, changed or not.
            tokens: one sequence; for several, `jax.vmap` over this argument.
            capture: sites or patterns of them (`models.sites.expand_sites`).
            hooks: site or pattern -> a traced function of the value there, [T, …], to its
                replacement; they run before the capture.
            embeddings: go in instead of those of the tokens, as at the site `embed`.

        Raises:
            ValueError: a site does not exist, `params` has other names or shapes than the model,
                tokens, embeddings or what a hook gives have another shape than the model's, a
                token is not in the vocabulary (where it is known: under jit it is not).
        """
        tokens = _checked_tokens(tokens, self.config.vocab_size)
        self._check_params(params)
        names = list(site_shapes(self.config, context=0))
        changes: dict[str, Callable[[Array], Array]] = {
            name: partial(_hooked, name, hook)
            for pattern, hook in (hooks or {}).items()
            for name in expand_sites([pattern], names)
        }
        if embeddings is not None:
            given = jnp.asarray(embeddings)
            if given.shape != (shape := (tokens.shape[0], self.config.width)):
                raise ValueError(f"embeddings must have shape {shape}, got {given.shape}")
            changes["embed"] = lambda value: given.astype(value.dtype)
        tap = Recorder(expand_sites(capture, names), changes)
        values = list(params[name] for name in param_names(self.decoder))
        head_values = list(params[name] for name in param_names(self.head, "head."))
        decoder = _with_plain_products(self.decoder.rebuild(values))
        head = _with_plain_products(self.head.rebuild(head_values))
        positions = jnp.arange(tokens.shape[0])
        hidden, _ = decoder(tokens, positions, make_dense_attention(tap), None, tap=tap)
        logits = tap("logits", None, head(hidden, tap)[:, : self.config.vocab_size])
        return logits, tap.captured

    def unembed(self, params: Params, hidden: Float[Array, "T D"]) -> Float[Array, "T V"]:
        """Scores of hidden states of any layer: the final norm and the output matrix.

        What a residual stream already says of the next token (nostalgebraist, "interpreting GPT:
        the logit lens", 2020).

        Raises:
            ValueError: the states have another width than the model's.
        """
        if jnp.shape(hidden)[-1:] != (self.config.width,):
            raise ValueError(
                f"hidden states are {self.config.width} wide, got shape {jnp.shape(hidden)}"
            )
        self._check_params(params)
        values = [params[name] for name in param_names(self.head, "head.")]
        head = _with_plain_products(self.head.rebuild(values))
        return head(hidden)[:, : self.config.vocab_size]

    def _check_params(self, params: Params) -> None:
        expected = self.params
        if missing := sorted(expected.keys() - params.keys()):
            raise ValueError(f"params lacks {', '.join(missing[:4])}, {len(missing)} in all")
        if unknown := sorted(params.keys() - expected.keys()):
            raise ValueError(f"params has unknown names: {', '.join(unknown[:4])}")
        for name, weights in expected.items():
            if (shape := jnp.shape(params[name])) != weights.shape:
                raise ValueError(f"params: {name} must have shape {weights.shape}, got {shape}")


def _checked_tokens(tokens: Any, vocab_size: int) -> Int[Array, " T"]:
    if isinstance(tokens, str):
        raise ValueError("tokens are ids, got a text: LLM.tokenize gives its ids")
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 1:
        raise ValueError(
            f"tokens must have one axis, got shape {tokens.shape}: "
            "jax.vmap runs the model over several sequences"
        )
    if not tokens.size or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens must be one id or more, got {tokens.size} {tokens.dtype}")
    if not isinstance(tokens, jax.core.Tracer):  # under jit nobody knows them yet
        known = np.asarray(tokens)
        low, high = known.min(), known.max()
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"ids of this model are 0 to {vocab_size - 1}, got {low if low < 0 else high}"
            )
    return tokens


def _hooked(name: str, hook: Callable[[Array], Array], value: Array) -> Array:
    changed = hook(value)
    if (shape := getattr(changed, "shape", None)) != value.shape:
        raise ValueError(f"the hook of {name} must give shape {value.shape}, gave {shape}")
    return changed


def _with_plain_products[Module: nnx.Module](module: Module) -> Module:
    """Kernels of few rows have no derivative; the matrices are the same."""
    for _, part in nnx.iter_modules(module):
        if isinstance(part, Dense):
            part.products = PLAIN
    return module


def load_pure_model(path: str | Path, *, dtype: str = "float32") -> PureModel:
    """A model file as the function alone, on one device: no pages, nothing compiled ahead.

    Raises:
        ModelFileError: the file is broken or not supported.
    """
    file = open_gguf(path)
    config = model_config(file)
    model = load_model(file, config, make_mesh(1), dtype=dtype)
    return PureModel(config, take_apart(model.decoder), take_apart(model.head))


def param_names(part: Part, prefix: str = "") -> list[str]:
    """Dotted names of a module's arrays, in the order of its leaves."""
    tree = jax.tree.unflatten(part.treedef, list(range(len(part.leaves))))
    names = []
    for path, _ in jax.tree.leaves_with_path(tree):
        keys = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        # a plain matrix is its module: nothing else is in there
        if keys[-1] == "values":
            keys.pop()
        names.append(prefix + ".".join(keys))
    return names
