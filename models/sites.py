"""The places of the forward pass that can be read and changed: their names, shapes and order."""

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from jaxtyping import Array

from models.config import ModelConfig
from models.weights import Axes

# tap(site, layer, value [T, …]) -> the value to go on with; layer None outside of the layers
type Tap = Callable[[str, Array | int | None, Array], Array]

# Letters of models/qwen2.py: the axes of a site's value after that of the tokens, in the order of
# the computation. C: the context that a token may look back on.
_BEFORE = {"embed": "D"}
_IN_LAYER = {
    "resid_pre": "D",
    "attn.q": "NH",  # rotated and scaled: scores are q · k
    "attn.k": "KH",  # rotated
    "attn.v": "KH",
    "attn.pattern": "NC",
    "attn.z": "NH",  # what each head has mixed, before the output matrix
    "attn.out": "D",
    "resid_mid": "D",
    "mlp.gate": "F",  # before the activation
    "mlp.up": "F",
    "mlp.act": "F",  # silu(gate) * up
    "mlp.out": "D",
    "resid_post": "D",
}
_AFTER = {"final_norm": "D", "logits": "V"}
PATTERN = "attn.pattern"
HEAD_SITES = frozenset(_AFTER)

# where a sharded model cuts an axis; the scores have been put together
_LOGICAL_AXES = {"N": "kv_heads", "K": "kv_heads", "F": "ffn"}


def untouched(site: str, layer: Array | int | None, value: Array) -> Array:
    """The tap of a model that nobody looks into."""
    return value


def full_name(site: str, layer: Array | int | None) -> str:
    """`resid_post` of layer 3 is `layers.3.resid_post`."""
    return site if layer is None else f"layers.{layer}.{site}"


def _letters(config: ModelConfig) -> dict[str, str]:
    in_layers = {
        full_name(site, i): letters
        for i in range(config.num_layers)
        for site, letters in _IN_LAYER.items()
        # copies of a kv head, and query heads of zeros, are nobody's heads
        if config.head_copies == 1 or not {"N", "K"} & set(letters)
    }
    return _BEFORE | in_layers | _AFTER


def site_shapes(config: ModelConfig, *, context: int) -> dict[str, tuple[int, ...]]:
    """Every site in the order of the computation, and the shape of one token's value there.

    Args:
        context: C, the length of an attention pattern's rows.
    """
    sizes = {
        "D": config.width,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
        "F": config.ffn_width,
        "V": config.vocab_size,
        "C": context,
    }
    return {
        name: tuple(sizes[letter] for letter in letters)
        for name, letters in _letters(config).items()
    }


def site_axes(config: ModelConfig) -> dict[str, Axes]:
    """The logical axes of each site's values, that of the tokens first."""
    return {
        name: (None, *(_LOGICAL_AXES.get(letter) for letter in letters))
        for name, letters in _letters(config).items()
    }


def expand_sites(patterns: str | Iterable[str], names: Collection[str]) -> list[str]:
    """The sites that a pattern or several mean, in the order of `names`.

    `*` stands for one part between dots (`layers.*.resid_post`) or a piece of it; layers count
    from the end when negative (`layers.-1.mlp.out`).

    Raises:
        ValueError: a pattern means no site, or is no text.
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(patterns, Iterable):
        raise ValueError(f"sites are a text or a list of texts, got {patterns!r}")
    num_layers = len({name.split(".")[1] for name in names if name.startswith("layers.")})
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"a site is a text, got {pattern!r}")
        parts = pattern.split(".")
        if parts[0] == "layers" and len(parts) > 1 and parts[1].startswith("-"):
            if parts[1][1:].isdecimal():
                parts[1] = str(num_layers + int(parts[1]))
        found = {name for name in names if _matches(name.split("."), parts)}
        if not found:
            within = [name.split(".", 2)[2] for name in names if name.startswith("layers.0.")]
            raise ValueError(
                f"no site is called {pattern!r}: there are {', '.join(_BEFORE)}, "
                f"layers.0 to layers.{num_layers - 1} with {', '.join(within)}, "
                f"and {', '.join(_AFTER)}"
            )
        chosen |= found
    return [name for name in names if name in chosen]


def _matches(name: list[str], pattern: list[str]) -> bool:
    return len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))


class Recorder:
    """A tap for one trace: changes the values of some sites, then keeps those of others.

    What is kept is the value that the model goes on with.
    """

    def __init__(
        self, captured: Collection[str], changes: Mapping[str, Callable[[Array], Array]]
    ) -> None:
        self.captured: dict[str, Array] = {}
        self._wanted = captured
        self._changes = changes

    def __call__(self, site: str, layer: Array | int | None, value: Array) -> Array:
        name = full_name(site, layer)
        if name in self._changes:
            value = self._changes[name](value)
        if name in self._wanted:
            self.captured[name] = value
        return value
