"""What callers of the Python face write as prompts, and the jobs that it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypedDict, cast

from runtime.errors import RequestError
from runtime.experiments.interventions import Intervention
from runtime.kv_snapshot import KVSnapshot
from runtime.request import SamplingParams


class TextPrompt(TypedDict):
    """vLLM's long form of a text."""

    prompt: str


class TokensPrompt(TypedDict):
    """vLLM's long form of token ids."""

    prompt_token_ids: list[int]


type Prompt = str | list[int] | TextPrompt | TokensPrompt | KVSnapshot
type Messages = list[dict[str, Any]]
type Params = SamplingParams | Sequence[SamplingParams] | None
# for every prompt, one or a list; or a list for each
type Interventions = Intervention | Sequence[Intervention] | Sequence[Sequence[Intervention]]
type Names = str | Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True)
class Job:
    """One prompt on its way to the engine.

    Attributes:
        text: None where token ids were given.
        starts_text: the answer begins a text (a chat), instead of going on with the prompt's.
        interventions: the changes to its inner values.
        origin: the snapshot to continue from, which begins `ids`.
        keeps: the answers' contexts are wanted as snapshots.
        logits_processors: names of functions on its scores, in their order.
        sampler: name of the function that chooses its tokens; None for our own.
        request_id: what the caller calls it; None for its number.
        scored_from: with `prompt_logprobs`, the first token of `ids` that is scored.
    """

    text: str | None
    ids: list[int]
    params: SamplingParams
    starts_text: bool = False
    interventions: tuple[Intervention, ...] = ()
    origin: KVSnapshot | None = None
    keeps: bool = False
    logits_processors: tuple[str, ...] = ()
    sampler: str | None = None
    request_id: str | None = None
    scored_from: int = 1


def listed_prompts(prompts: Prompt | Sequence[Prompt]) -> list[str | list[int] | KVSnapshot]:
    """One prompt or several, as texts, token ids and snapshots.

    Raises:
        RequestError: something is no prompt; a dictionary holds neither `prompt` nor
            `prompt_token_ids`.
    """
    if isinstance(prompts, str | dict | KVSnapshot):
        return [single_prompt(prompts)]
    listed = _listed(prompts, "prompts")
    if any(isinstance(item, Integral) for item in listed):
        return [single_prompt(listed)]
    return [single_prompt(prompt) for prompt in listed]


def single_prompt(prompt: object) -> str | list[int] | KVSnapshot:
    """A prompt as a text, token ids or a snapshot.

    Raises:
        RequestError: it is none.
    """
    if isinstance(prompt, str | KVSnapshot):
        return prompt
    if not isinstance(prompt, dict):
        return token_ids(prompt, param="prompts")
    fields: dict[str, Any] = prompt
    if fields.keys() == {"prompt"} and isinstance(fields["prompt"], str):
        return fields["prompt"]
    if fields.keys() == {"prompt_token_ids"}:
        return token_ids(fields["prompt_token_ids"], param="prompts")
    raise RequestError(
        "a prompt's dictionary holds either 'prompt' or 'prompt_token_ids', "
        f"got {', '.join(map(repr, fields)) or 'nothing'}",
        param="prompts",
    )


def token_ids(value: object, *, param: str) -> list[int]:
    """A list, or array, of token ids.

    Raises:
        RequestError: it is none.
    """
    ids = _listed(value, param)
    if odd := [item for item in ids if not isinstance(item, Integral)]:
        raise _no_prompt(odd[0], param)
    return [int(item) for item in ids]


def _listed(value: Any, param: str) -> list[Any]:
    """The items of a list, a tuple or an array."""
    if not isinstance(value, Sequence) and not getattr(value, "shape", ()):
        raise _no_prompt(value, param)
    return list(value)


def _no_prompt(value: object, param: str) -> RequestError:
    return RequestError(f"{param} are texts or lists of token ids, got {value!r}", param=param)


def listed_continuations(continuations: object) -> list[Any]:
    """What may follow a prompt: texts and token ids, which are still to be looked at.

    Raises:
        RequestError: it is no list, but for instance one text, of which each letter would be one.
    """
    if isinstance(continuations, str) or not isinstance(continuations, Sequence):
        raise RequestError(
            f"continuations is a list of texts or of lists of ids, got {continuations!r}",
            param="continuations",
        )
    return list(continuations)


def listed_chats(messages: Messages | Sequence[Messages]) -> list[Messages]:
    """One conversation or several: one is a list of messages, several are a list of lists."""
    if messages and isinstance(messages[0], dict):
        return [cast(Messages, messages)]
    return list(cast(Sequence[Messages], messages))


def is_chat(prompt: Prompt | Messages) -> bool:
    """Whether these are the messages of a chat."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)


def one_each(params: Params, count: int) -> list[SamplingParams]:
    """Sampling parameters of each prompt.

    Raises:
        RequestError: there are more or fewer than prompts.
    """
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise RequestError(
            f"{len(params)} sampling parameters for {count} prompts", param="sampling_params"
        )
    return list(params)


def lists_each[T](
    items: T | Sequence[T] | Sequence[Sequence[T]],
    kinds: tuple[type[T], ...],
    count: int,
    *,
    param: str,
) -> list[tuple[T, ...]]:
    """A list for each prompt: one that is for all of them, or as many as there are prompts.

    Args:
        kinds: what an item is; everything else is a list.

    Raises:
        RequestError: there are more or fewer lists than prompts, or this is neither.
    """
    if isinstance(items, kinds):
        return [(items,)] * count
    if not isinstance(items, Sequence):
        raise RequestError(f"{param} is a list, got {items!r}", param=param)
    if all(isinstance(item, kinds) for item in items):
        return [tuple(cast(Sequence[T], items))] * count
    if len(items) != count:
        raise RequestError(f"{len(items)} lists of {param} for {count} prompts", param=param)
    lists = [[own] if isinstance(own, kinds) else own for own in items]
    if odd := [own for own in lists if not isinstance(own, Sequence)]:
        raise RequestError(f"{param} of a prompt are a list, got {odd[0]!r}", param=param)
    return [tuple(cast(Sequence[T], own)) for own in lists]
