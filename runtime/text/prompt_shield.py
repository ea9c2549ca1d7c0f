"""Keeps what users write from becoming control tokens when a chat template quotes it.

A template prints its own control tokens and the users' text into one string. Before it does, every
place where users' text could spell a control token, or complete one that other text began, is
broken by a sentinel: a private-use character that occurs nowhere in the chat. Whatever control
token is then found in the rendered string is the template's own.

    user text   Hi<|im_end|>                       S is the sentinel
    shielded    Hi<S|im_end|>
    rendered    <|im_start|>user\\nHi<S|im_end|><|im_end|>
    ids         151644, plain("user\\nHi<|im_end|>"), 151645
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.text.special_tokens import TokenSplitter
from runtime.text.template_process import TemplateError
from runtime.text.tokenizer import Tokenizer

PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
MAX_DEPTH = 64
# Characters of a control token that are enough to break it. A template that cuts a middle piece
# out of a text (its `<think>` part) then has little left to join to a token, while the text's own
# `<think>` and `<tool_call>`, which templates look for, stay whole.
HEAD = 3
# Words that templates compare, and whose values are no free text.
TERMS = frozenset({"role", "type"})


@dataclass(frozen=True)
class RenderedChat:
    """A prompt as text and as ids; `ids` may differ from a plain encoding of `text`."""

    text: str
    ids: list[int]


class PromptShield:
    """Shields strings against the control tokens of one vocabulary.

    Control tokens of one character cannot be broken; they are never found in a rendered chat.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        control = {name: i for name, i in tokenizer.control_tokens.items() if len(name) > 1}
        self._tokenizer = tokenizer
        self._splitter = TokenSplitter(control)
        heads = sorted({name[:HEAD] for name in control})
        first_of_head = (f"{re.escape(h[0])}(?={re.escape(h[1:])})" for h in heads)
        self._heads = re.compile("|".join(first_of_head)) if heads else None
        self._openings = {name[:n] for name in control for n in range(1, HEAD) if n < len(name)}
        self._tails = {name[n:] for name in control for n in range(1, len(name))}
        self._longest = max(map(len, control), default=0)
        self._all = "\0".join(control)

    def sentinel(self, *values: Any) -> str:
        """A character that occurs in none of `values` and in no control token.

        Raises:
            TemplateError: every private-use character occurs.
        """
        present = set(self._all)
        for value in values:
            for text in _strings(value, MAX_DEPTH):
                present.update(text)
        for codes in PRIVATE_USE:
            for code in codes:
                if chr(code) not in present:
                    return chr(code)
        raise TemplateError("the chat uses every private-use character")

    def shield(self, value: Any, sentinel: str) -> Any:
        """`value`, anything JSON can carry, with every string in it made harmless."""
        if isinstance(value, str):
            return self._shield_text(value, sentinel)
        if isinstance(value, Mapping):
            return {
                # Names that templates look up must stay as they are.
                self._shield_text(key, sentinel, edges=not key.isidentifier()): (
                    self._shield_text(item, sentinel, edges=False)
                    if key in TERMS and isinstance(item, str)
                    else self.shield(item, sentinel)
                )
                for key, item in value.items()
            }
        if isinstance(value, Sequence):
            return [self.shield(item, sentinel) for item in value]
        return value

    def encode_rendered(self, rendered: str, sentinel: str) -> RenderedChat:
        """The prompt of a string rendered from shielded values."""
        ids: list[int] = []
        for part in self._splitter.split(rendered):
            if isinstance(part, int):
                ids.append(part)
            else:
                plain = part.replace(sentinel, "")
                ids += self._tokenizer.encode(plain, parse_special=False)
        return RenderedChat(rendered.replace(sentinel, ""), ids)

    def _shield_text(self, text: str, sentinel: str, edges: bool = True) -> str:
        cuts = {match.end() for match in self._heads.finditer(text)} if self._heads else set()
        if edges:
            cuts |= self._edge_cuts(text)
        if not cuts:
            return text
        bounds = [0, *sorted(cuts), len(text)]
        return sentinel.join(text[a:b] for a, b in zip(bounds, bounds[1:], strict=False))

    def _edge_cuts(self, text: str) -> set[int]:
        """Where to break a text that could begin, continue or end a token in its neighbours.

        Templates trim, so the edges inside the outer white space count as well.
        """
        cuts: set[int] = set()
        for end in {len(text), len(text.rstrip())}:
            for n in range(1, HEAD):
                if n <= end and text[end - n : end] in self._openings:
                    cuts.add(end - n + 1)
        for start in {0, len(text) - len(text.lstrip())}:
            longest = min(self._longest, len(text) - start)
            ends_token = any(text[start : start + n] in self._tails for n in range(1, longest + 1))
            rest = text[start : start + self._longest + 1].rstrip()
            if ends_token or (rest and rest in self._all):
                cuts.add(start)
        return cuts


def _strings(value: Any, depth: int) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if depth == 0:
        raise TemplateError(f"the chat is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TemplateError(f"the chat has a key that is no string: {key!r}")
            yield key
            yield from _strings(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, depth - 1)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise TemplateError(f"the chat holds a {type(value).__name__}, which is not JSON")
