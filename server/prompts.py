"""The `prompt` of a completion: a text, token ids, or a list of either."""

from typing import Any

from runtime.errors import RequestError
from server.limits import MAX_CHOICES
from server.model_text import ModelText


async def prompt_ids(prompt: Any, text: ModelText, *, add_special: bool) -> list[list[int]]:
    """The token ids of each prompt.

    Raises:
        RequestError: it is none of the four forms, or an id is not in the vocabulary.
    """
    found = []
    for one in _each(prompt):
        if isinstance(one, str):
            found.append(await text.encode(one, add_special=add_special))
        else:
            check_ids(one, text.tokenizer.vocab_size, param="prompt")
            found.append(one)
    return found


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
