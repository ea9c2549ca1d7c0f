"""Fill-in-the-middle prompts: other files first, then what is before and after the gap."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import RequestError
from runtime.text.special_tokens import FimTokens
from server.model_text import ModelText

# where the model has no token that separates files
SEPARATOR = "\n\n"
REPOSITORY = "repository\n"
THIS_FILE = "current_file\n"
SUFFIX_SHARE = 4  # the text after the gap gets a fourth of what is left, if it needs so much


@dataclass(frozen=True)
class ExtraFile:
    """A piece of another file, or of another place in this one."""

    name: str
    text: str


@dataclass(frozen=True)
class InfillPrompt:
    """The prompt; `truncated` if something far from the gap had no room."""

    ids: list[int]
    truncated: bool


async def infill_prompt(
    text: ModelText, prefix: str, suffix: str, extras: Sequence[ExtraFile], *, room: int
) -> InfillPrompt:
    """The prompt of a gap, in the order that Qwen2.5-Coder was trained on: repository, files,
    prefix, suffix, middle (Hui et al. 2024, arXiv:2409.12186).

    What does not fit is cut where it is farthest from the gap: the first files, then the beginning
    of the prefix and the end of the suffix. None of the texts can spell a control token.

    Args:
        room: tokens that the prompt may have.

    Raises:
        RequestError: the model has no fill-in-the-middle tokens, or `room` is too small.
    """
    fim = text.tokenizer.fim
    if fim is None:
        raise RequestError(
            "the model has no fill-in-the-middle tokens; /infill needs a model that was trained "
            "with them",
            code="unsupported_model",
        )
    before = await _encode(text, prefix)
    after = await _encode(text, suffix)
    left = room - len(text.tokenizer.prefix_ids) - 3
    if left < 2:
        raise RequestError(
            f"the prompt may have {room} tokens, which is too little for a gap", param="n_predict"
        )
    num_after = min(len(after), max(left // SUFFIX_SHARE, left - len(before)))
    num_before = min(len(before), left - num_after)
    kept_before, kept_after = before[len(before) - num_before :], after[:num_after]
    context, all_fit = await _context(text, fim, extras, room=left - num_before - num_after)
    ids = [*text.tokenizer.prefix_ids, *context]
    ids += [fim.prefix, *kept_before, fim.suffix, *kept_after, fim.middle]
    is_whole = all_fit and num_before == len(before) and num_after == len(after)
    return InfillPrompt(ids, truncated=not is_whole)


async def _context(
    text: ModelText, fim: FimTokens, extras: Sequence[ExtraFile], *, room: int
) -> tuple[list[int], bool]:
    """The other files, the last of them first to be kept; and whether all are."""
    if not extras:
        return [], True
    opening, closing = [], []
    if fim.separator is not None:
        closing = [fim.separator, *await _encode(text, THIS_FILE)]
        if fim.repo is not None:
            opening = [fim.repo, *await _encode(text, REPOSITORY)]
    room -= len(opening) + len(closing)
    kept: list[list[int]] = []
    for extra in reversed(extras):
        if fim.separator is None:
            ids = await _encode(text, extra.text + SEPARATOR)
        else:
            ids = [fim.separator, *await _encode(text, f"{extra.name}\n{extra.text}")]
        if len(ids) > room:
            break
        room -= len(ids)
        kept.insert(0, ids)
    if not kept:
        return [], False
    files = [token_id for ids in kept for token_id in ids]
    return [*opening, *files, *closing], len(kept) == len(extras)


async def _encode(text: ModelText, part: str) -> list[int]:
    return await text.encode(part, parse_special=False, add_special=False)
