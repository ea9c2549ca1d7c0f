"""Tokens that are no words: their types, the names that end a generation, fill-in-the-middle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from tokenizers import AddedToken
from tokenizers import Tokenizer as Matcher
from tokenizers.models import WordLevel


class TokenType(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# A token with one of these texts ends a generation and is a control token whatever the file says of
# its type (llama.cpp does the same; Qwen2's `</s>` is typed as normal text).
END_NAMES = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    }
)


@dataclass(frozen=True)
class FimRole:
    """Where a fill-in-the-middle token is found: metadata keys first, then token texts."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    ends_generation: bool = False


FIM_ROLES: Mapping[str, FimRole] = MappingProxyType(
    {
        "prefix": FimRole(
            ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"),
            (
                *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>"),
                *("<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
            ),
        ),
        "suffix": FimRole(
            ("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"),
            (
                *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>"),
                *("<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
            ),
        ),
        "middle": FimRole(
            ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"),
            (
                *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>"),
                *("<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
            ),
        ),
        "pad": FimRole(
            ("tokenizer.ggml.fim_pad_token_id",),
            ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
            ends_generation=True,
        ),
        "repo": FimRole(
            ("tokenizer.ggml.fim_rep_token_id",),
            ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
            ends_generation=True,
        ),
        "separator": FimRole(
            ("tokenizer.ggml.fim_sep_token_id",), ("<|file_sep|>",), ends_generation=True
        ),
    }
)


@dataclass(frozen=True)
class FimTokens:
    """Ids of the fill-in-the-middle tokens; the last three are None where a model has none."""

    prefix: int
    suffix: int
    middle: int
    pad: int | None
    repo: int | None
    separator: int | None


class TokenSplitter:
    """Cuts text at the given tokens, leftmost first, the longest where two begin together.

    One automaton in `tokenizers` searches for all of them: linear in the text, whatever their
    number.

    Args:
        tokens: text → id.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._names = names = sorted(tokens)
        self._ids = [tokens[name] for name in names]
        # Everything between the tokens comes back as the one word "unknown", id 0. It must not
        # read like one of them, or `tokenizers` takes the two for the same.
        unknown = "?" * (1 + max(map(len, names), default=0))
        self._matcher = Matcher(WordLevel({unknown: 0}, unk_token=unknown))
        self._matcher.add_special_tokens(
            [AddedToken(name, special=True, normalized=False) for name in names]
        )

    def split(self, text: str) -> Iterator[str | int]:
        """Yields non-empty stretches of plain text and ids of tokens, in order."""
        # Which tokens, in order; where they are costs `tokenizers` ten times as long as it does
        # here: the next of them begins where its text is next found.
        (found,) = self._matcher.encode_batch_fast([text], add_special_tokens=False)
        end = 0
        for number in found.ids:
            if not number:
                continue
            name = self._names[number - 1]
            start = text.index(name, end)
            if start > end:
                yield text[end:start]
            yield self._ids[number - 1]
            end = start + len(name)
        if end < len(text):
            yield text[end:]


def first_named(names: Sequence[str], ids: Mapping[str, int]) -> int | None:
    """The id of the first of `names` that is a token, or None."""
    return next((ids[name] for name in names if name in ids), None)
