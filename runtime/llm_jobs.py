"""Makes jobs of what callers of the Python face write: prompts tokenized, chats rendered."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from runtime.experiments.interventions import INTERVENTIONS, Intervention
from runtime.kv_snapshot import KVSnapshot
from runtime.llm_prompts import (
    Interventions,
    Job,
    Messages,
    Names,
    Params,
    Prompt,
    is_chat,
    listed_chats,
    listed_prompts,
    lists_each,
    one_each,
    single_prompt,
)
from runtime.request import SamplingParams
from runtime.text.chat_template import ChatTemplate
from runtime.text.tokenizer import Tokenizer


class JobMaker:
    """A model's tokenizer and chat template, put to prompts in any of their forms.

    Its methods raise `RequestError` for a prompt that is none, and for lists of other lengths than
    the prompts'; `TemplateError` for a chat that cannot be rendered.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate):
        self._tokenizer = tokenizer
        self._template = template

    def tokenize(self, text: str, *, parse_special: bool = True) -> list[int]:
        """The ids of a text, from the beginning of a sequence on."""
        return list(self._tokenizer.prefix_ids) + self._tokenizer.encode(
            text, parse_special=parse_special
        )

    def one(
        self,
        prompt: Prompt | Messages,
        params: SamplingParams | None = None,
        interventions: Interventions = (),
    ) -> Job:
        """The job of one prompt or chat."""
        (changes,) = _changes(interventions, 1)
        return self._one(prompt, params or SamplingParams(), changes)

    def _one(
        self,
        prompt: Prompt | Messages,
        params: SamplingParams,
        changes: tuple[Intervention, ...],
    ) -> Job:
        if is_chat(prompt):
            chat = self._template.render_chat(cast(Messages, prompt))
            return Job(chat.text, chat.ids, params, starts_text=True, interventions=changes)
        plain = single_prompt(prompt)
        job = Job(None, [], params, interventions=changes)
        if isinstance(plain, KVSnapshot):
            return replace(job, ids=list(plain.token_ids), origin=plain.copy())
        if isinstance(plain, str):
            return replace(job, text=plain, ids=self.tokenize(plain))
        return replace(job, ids=plain)

    def of_prompts(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        *,
        interventions: Interventions = (),
        keeps: bool = False,
        logits_processors: Names = (),
        sampler: str | None = None,
    ) -> list[Job]:
        """A job for each prompt; `keeps` and `sampler` are for all of them."""
        listed = listed_prompts(prompts)
        params = one_each(sampling_params, len(listed))
        changes = _changes(interventions, len(listed))
        names: list[tuple[str, ...]] = lists_each(
            logits_processors, (str,), len(listed), param="logits_processors"
        )
        return [
            replace(
                self._one(prompt, own, items),
                keeps=keeps,
                logits_processors=processors,
                sampler=sampler,
            )
            for prompt, own, items, processors in zip(listed, params, changes, names, strict=True)
        ]

    def of_chats(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: Params = None,
        *,
        interventions: Interventions = (),
        **rendering: Any,
    ) -> list[Job]:
        """A job for each conversation; `rendering` is what `ChatTemplate.render_chat` takes."""
        rendered = [
            self._template.render_chat(chat, **rendering) for chat in listed_chats(messages)
        ]
        params = one_each(sampling_params, len(rendered))
        changes = _changes(interventions, len(rendered))
        return [
            Job(chat.text, chat.ids, own, starts_text=True, interventions=items)
            for chat, own, items in zip(rendered, params, changes, strict=True)
        ]


def _changes(interventions: Interventions, count: int) -> list[tuple[Intervention, ...]]:
    return lists_each(interventions, INTERVENTIONS, count, param="interventions")
