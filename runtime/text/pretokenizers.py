"""How each family of BPE vocabularies cuts text into words: `tokenizer.ggml.pre` as a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from models.errors import ModelFileError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LETTERS_THEN_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
QWEN2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{LETTERS_THEN_MARKS}|{SPACES}"
LLAMA3 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{LETTERS_THEN_MARKS}|{SPACES}"
)
QWEN35 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"
)
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
MARKS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
TEKKEN = rf"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\p{{N}}|{MARKS_AND_SLASH}|{SPACES}"
GPT4O = (
    rf"{LEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{MARKS_AND_SLASH}|{SPACES}"
)
DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    rf"|{SPACES}"
)


@dataclass(frozen=True)
class PreTokenizer:
    """The regular expressions of one family, applied one after the other to the pieces so far.

    Attributes:
        patterns: Oniguruma expressions; what matches becomes a word, and so does what lies between.
        ignore_merges: a word that is itself a token is taken whole, before any merge.
        add_bos: what the family does where the file has no `tokenizer.ggml.add_bos_token`.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


def pretokenizer(pre: str) -> PreTokenizer:
    """The pre-tokenizer named by `tokenizer.ggml.pre`.

    Raises:
        ModelFileError: the name is not in the table; a guess would tokenise almost rightly.
    """
    found = PRETOKENIZERS.get(pre)
    if found is None:
        known = ", ".join(sorted(PRETOKENIZERS))
        raise ModelFileError(
            f"unknown pre-tokenizer {pre!r}; known are {known}", subject="tokenizer.ggml.pre"
        )
    return found


def _table(*rows: tuple[str, PreTokenizer]) -> Mapping[str, PreTokenizer]:
    return MappingProxyType({name: value for names, value in rows for name in names.split()})


# Names and families as in llama.cpp's llama-vocab.cpp; expressions as in the families' own
# tokenizer.json, which that file quotes.
PRETOKENIZERS = _table(
    ("qwen2 deepseek-r1-qwen megrez kormo stablelm2 hunyuan grok-2", PreTokenizer((QWEN2,))),
    ("qwen35", PreTokenizer((QWEN35,))),
    (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        PreTokenizer((LLAMA3,), ignore_merges=True, add_bos=True),
    ),
    ("dbrx smaug-bpe glm4 chatglm-bpe", PreTokenizer((LLAMA3,))),
    ("gpt-2 phi-2 mpt olmo jais gigachat mellum a.x-4.0 exaone4", PreTokenizer((GPT2,))),
    (
        "smollm starcoder refact command-r codeshell exaone minerva-7b",
        PreTokenizer((r"\p{N}", GPT2)),
    ),
    ("tekken", PreTokenizer((TEKKEN,), ignore_merges=True, add_bos=True)),
    ("gpt-4o llama4 kanana2", PreTokenizer((GPT4O,))),
    (
        "deepseek-coder",
        PreTokenizer(
            (
                r"[\r\n]",
                r"\s?\p{L}+",
                r"\s?\p{P}+",
                r"[\x{4e00}-\x{9fa5}\x{0800}-\x{4e00}\x{ac00}-\x{d7ff}]+",
                r"\p{N}",
            )
        ),
    ),
    (
        "deepseek-v3 hunyuan-dense",
        PreTokenizer(
            (r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+", DEEPSEEK_V3)
        ),
    ),
    (
        "default",
        PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    ),
)
