"""The `prompt` of a completion: a text, token ids, or a list of either; with `suffix`, a gap."""

from dataclasses import dataclass
from typing import Any

from runtime.errors import RequestError, UnsupportedParameter
from runtime.text.tokenizer import Tokenizer
from server.limits import MAX_CHOICES
from server.model_text import ModelText


@dataclass(frozen=True)
class EchoedPrompt:
    """A prompt as `echo` shows it.

    Attributes:
        num_added: tokens at the beginning of `ids` that the client did not write.
    """

    text: str
    ids: list[int]
    num_added: int


async def prompt_ids(
    prompt: Any, text: ModelText, *, add_special: bool, suffix: str | None = None
) -> list[list[int]]:
    """The token ids of each prompt; with a suffix, those that ask for what comes between.

    Raises:
        RequestError: it is none of the four forms, or an id is not in the vocabulary.
        UnsupportedParameter: there is a suffix, and the model has no tokens for it.
    """
    found = []
    for one in _each(prompt):
        if suffix:
            found.append(await _gap_ids(one, suffix, text, add_special=add_special))
        elif isinstance(one, str):
            found.append(await text.encode(one, add_special=add_special))
        else:
            check_ids(one, text.tokenizer.vocab_size, param="prompt")
            found.append(one)
    return found


def echoed_prompts(
    prompt: Any, ids: list[list[int]], tokenizer: Tokenizer, *, add_special: bool
) -> list[EchoedPrompt]:
    """The prompts and the ids that `prompt_ids` made of them, for `echo`."""
    num_added = len(tokenizer.prefix_ids) if add_special else 0
    return [
        EchoedPrompt(one, own, num_added)
        if isinstance(one, str)
        else EchoedPrompt(tokenizer.decode(own, skip_special=False), own, 0)
        for one, own in zip(_each(prompt), ids, strict=True)
    ]


async def _gap_ids(prompt: Any, suffix: str, text: ModelText, *, add_special: bool) -> list[int]:
    """Prefix, suffix, middle: the order that models are trained on (Bavarian et al. 2022)."""
    fim = text.tokenizer.fim
    if fim is None:
        raise UnsupportedParameter(
            "the model has no tokens for filling in the middle, which suffix needs", param="suffix"
        )
    if not isinstance(prompt, str):
        raise RequestError("suffix needs a prompt of text", param="suffix")
    # code may spell control tokens, and means nothing by it
    before = await text.encode(prompt, parse_special=False, add_special=False)
    after = await text.encode(suffix, parse_special=False, add_special=False)
    added = text.tokenizer.prefix_ids if add_special else ()
    return [*added, fim.prefix, *before, fim.suffix, *after, fim.middle]


def check_ids(ids: list[int], vocab_size: int, *, param: str) -> None:
    """Refuses what is no token of the vocabulary.

    Raises:
        RequestError: naming the first one.
    """
    for token_id in ids:
        if type(token_id) is not int:
            raise RequestError(
                f"{param} mixes token ids and other things", param=param, code="invalid_type"
            )
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"{param} has token id {str(token_id)[:24]}; ids lie in [0, {vocab_size})",
                param=param,
            )


def _each(prompt: Any) -> list[Any]:
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list):
        raise RequestError(
            "prompt must be a string, token ids, or a list of those",
            param="prompt",
            code="invalid_type",
        )
    if not prompt:
        raise RequestError("prompt is an empty list", param="prompt")
    if not isinstance(prompt[0], str | list):
        return [prompt]
    if len(prompt) > MAX_CHOICES:
        raise RequestError(f"at most {MAX_CHOICES} prompts, got {len(prompt)}", param="prompt")
    kind = type(prompt[0])
    if any(type(one) is not kind for one in prompt):
        raise RequestError("prompt mixes texts and token ids", param="prompt", code="invalid_type")
    return prompt
