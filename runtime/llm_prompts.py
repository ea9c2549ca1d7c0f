"""What callers of the Python face write as prompts, and the jobs that it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass
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
# for every prompt, or a list for each
type Interventions = Sequence[Intervention] | Sequence[Sequence[Intervention]]
type Names = Sequence[str] | Sequence[Sequence[str]]


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
        RequestError: a dictionary holds neither `prompt` nor `prompt_token_ids`.
    """
    if isinstance(prompts, str | dict | KVSnapshot):
        return [_plain(cast(Prompt, prompts))]
    listed = cast(Sequence[Any], prompts)
    if listed and isinstance(listed[0], int):
        return [list(listed)]
    return [_plain(prompt) for prompt in listed]


def _plain(prompt: Prompt) -> str | list[int] | KVSnapshot:
    if isinstance(prompt, str | KVSnapshot):
        return prompt
    if not isinstance(prompt, dict):
        return list(prompt)
    fields: dict[str, Any] = dict(prompt)
    if fields.keys() == {"prompt"} and isinstance(fields["prompt"], str):
        return fields["prompt"]
    if fields.keys() == {"prompt_token_ids"}:
        return list(fields["prompt_token_ids"])
    raise RequestError(
        "a prompt's dictionary holds either 'prompt' or 'prompt_token_ids', "
        f"got {', '.join(map(repr, fields)) or 'nothing'}",
        param="prompts",
    )


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
    items: Sequence[T] | Sequence[Sequence[T]], kinds: tuple[type, ...], count: int, *, param: str
) -> list[tuple[T, ...]]:
    """A list for each prompt: one that is for all of them, or as many as there are prompts.

    Args:
        kinds: what an item is; everything else is a list.

    Raises:
        RequestError: there are more or fewer lists than prompts.
    """
    if all(isinstance(item, kinds) for item in items):
        return [tuple(cast(Sequence[T], items))] * count
    if len(items) != count:
        raise RequestError(f"{len(items)} lists of {param} for {count} prompts", param=param)
    return [tuple(own) for own in cast(Sequence[Sequence[T]], items)]
