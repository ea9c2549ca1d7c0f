"""The Python face: a model in this process, the same engine and programs as the server's."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Self, cast

from rich.progress import Progress

from models import demo
from models.gguf_file import open_gguf
from runtime.collect import Collector
from runtime.compile_log import CompileLog
from runtime.config import RuntimeConfig
from runtime.embedding import embed
from runtime.engine import Engine
from runtime.errors import RequestError
from runtime.guidance import GuideMaker
from runtime.outputs import EmbeddingOutput, RequestOutput
from runtime.request import SamplingParams
from runtime.seeds import seed_source
from runtime.start import start_engine
from runtime.text.answer import Answer
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_process import TemplateWorker
from runtime.text.tokenizer import build_tokenizer

type Prompt = str | list[int]
type Messages = list[dict[str, Any]]


class LLM:
    """A model file, loaded and compiled; use it as a context manager or call `close`.

    Calls are synchronous and not for several threads at once. Without a seed in its parameters,
    each request draws one.

    Args:
        model: path of the GGUF file, or "demo" for the model that ships with ggjax.
        chat_template: Jinja text to use instead of the file's.
        report: called with each line of progress while loading.
        options: the fields of `runtime.config.RuntimeConfig`, the flags of `ggjax serve`.

    Raises:
        ModelFileError: the file is broken or not supported.
        ValueError: an option is out of range or does not fit the model.
    """

    def __init__(
        self,
        model: str,
        *,
        chat_template: str | None = None,
        report: Callable[[str], None] = lambda _: None,
        **options: Any,
    ):
        path = demo.PATH if model == demo.NAME else model
        config = RuntimeConfig(model=str(path), **options)
        file = open_gguf(config.model)
        self._tokenizer = tokenizer = build_tokenizer(file.metadata)
        own_template = file.metadata.get("tokenizer.chat_template")
        source = chat_template or (own_template if isinstance(own_template, str) else None)
        with ExitStack() as opened:  # what is open is closed again if the start fails
            self._compile_log = opened.enter_context(closing(CompileLog()))
            self._engine: Engine = start_engine(
                config,
                file,
                sorted(self._tokenizer.stop_ids),
                report=lambda stage, text, fraction: report(text),
                log=self._compile_log,
                make_guide=GuideMaker(lambda: tokenizer).make,
            )
            self._worker = opened.enter_context(closing(TemplateWorker()))
            opened.pop_all()
        self._template = ChatTemplate(source, self._tokenizer, self._worker)
        self._ids = itertools.count()
        self._next_seed = seed_source(config.seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the device's memory and ends the template process."""
        self._worker.close()
        self._compile_log.close()
        del self._engine

    @property
    def info(self) -> Any:
        """What was loaded: `runtime.messages.EngineInfo`."""
        return self._engine.info

    def tokenize(self, text: str, *, parse_special: bool = True) -> list[int]:
        """The ids of a text; `parse_special` reads control tokens in it."""
        return list(self._tokenizer.prefix_ids) + self._tokenizer.encode(
            text, parse_special=parse_special
        )

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return self._tokenizer.decode(token_ids, skip_special=skip_special_tokens)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Answers to prompts, in their order.

        Args:
            prompts: a text, token ids, or a list of these.
            sampling_params: one for all or one each.
            use_tqdm: show a progress bar (vLLM's name for it).

        Raises:
            RequestError: a prompt or a parameter cannot be served; then nothing was started.
        """
        listed = _listed_prompts(prompts)
        texts = [p if isinstance(p, str) else None for p in listed]
        ids = [self.tokenize(p) if isinstance(p, str) else list(p) for p in listed]
        return self._run(texts, ids, sampling_params, use_tqdm, starts_text=False)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Answers to conversations in OpenAI's form: one, or a list of them."""
        # one conversation is a list of messages, several are a list of lists
        one = bool(messages) and isinstance(messages[0], dict)
        chats = cast(list[Messages], [messages] if one else messages)
        rendered = [
            self._template.render_chat(
                chat,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
            )
            for chat in chats
        ]
        texts = [chat.text for chat in rendered]
        ids = [chat.ids for chat in rendered]
        return self._run(texts, ids, sampling_params, use_tqdm, starts_text=True)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling: str = "last",
        normalize: bool = True,
    ) -> list[EmbeddingOutput]:
        """Embeddings of prompts, in their order.

        Args:
            prompts: a text, token ids, or a list of these.
            pooling: the final hidden state of the "last" token, or the "mean" of all.
            normalize: scales each to length 1.

        Raises:
            RequestError: a prompt cannot be served.
        """
        listed = _listed_prompts(prompts)
        ids = [self.tokenize(p) if isinstance(p, str) else list(p) for p in listed]
        by_id = {next(self._ids): own for own in ids}
        found = embed(self._engine, by_id, pooling=pooling, normalize=normalize)
        return [
            EmbeddingOutput(
                request_id=str(request_id),
                prompt=prompt if isinstance(prompt, str) else None,
                prompt_token_ids=by_id[request_id],
                embedding=vector.tolist(),
                num_cached_tokens=output.num_cached_tokens,
            )
            for prompt, (request_id, (vector, output)) in zip(listed, found.items(), strict=True)
        ]

    def stream(
        self, prompt: Prompt | Messages, sampling_params: SamplingParams | None = None
    ) -> Iterator[str]:
        """The pieces of one answer as they come; leaving the loop early ends the request.

        Args:
            prompt: a text, token ids, or the messages of a chat.
        """
        params = sampling_params or SamplingParams()
        if params.n != 1:
            raise RequestError(f"stream gives one answer, got n={params.n}", param="n")
        is_chat = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], dict)
        if isinstance(prompt, str):
            ids = self.tokenize(prompt)
        elif is_chat:
            ids = self._template.render_chat(cast(Any, prompt)).ids
        else:
            ids = cast(list[int], prompt)
        (request_id,) = self._submit(ids, params)
        answer = self._collector(0, params, starts_text=is_chat)
        try:
            while not answer.finished:
                for output in self._engine.step():
                    if output.request_id == request_id and (piece := answer.push(output)):
                        yield piece
        finally:
            self._drop([request_id])

    def _run(
        self,
        texts: Sequence[str | None],
        prompts: list[list[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
        *,
        starts_text: bool,
    ) -> list[RequestOutput]:
        params = _one_each(sampling_params or SamplingParams(), len(prompts))
        groups: list[list[int]] = []
        answers: dict[int, Collector] = {}
        try:
            for ids, own in zip(prompts, params, strict=True):
                groups.append(self._submit(ids, own))
                for choice, request_id in enumerate(groups[-1]):
                    answers[request_id] = self._collector(choice, own, starts_text=starts_text)
            with Progress(disable=not use_tqdm, transient=True) as bar:
                task = bar.add_task("requests", total=len(answers))
                self._until_finished(answers, lambda: bar.advance(task))
        finally:
            self._drop([request_id for group in groups for request_id in group])
        return [
            RequestOutput(
                request_id=str(group[0]),
                prompt=text,
                prompt_token_ids=ids,
                outputs=[answers[request_id].output() for request_id in group],
                num_cached_tokens=answers[group[0]].num_cached_tokens,
                prompt_logprobs=answers[group[0]].prompt_logprobs,
            )
            for group, text, ids in zip(groups, texts, prompts, strict=True)
        ]

    def _until_finished(self, answers: dict[int, Collector], advance: Callable[[], None]) -> None:
        left = len(answers)
        while left:
            for output in self._engine.step():
                answer = answers.get(output.request_id)
                if answer is None or answer.finished:
                    continue  # an abort, or what was in flight when a stop string was found
                answer.push(output)
                if answer.finished:
                    left -= 1
                    advance()
                    self._engine.abort(output.request_id)

    def _submit(self, ids: list[int], params: SamplingParams) -> list[int]:
        """Queues the answers to one prompt; their ids."""
        seed = self._next_seed() if params.seed is None else params.seed
        submitted: list[int] = []
        for choice in range(params.n):
            request_id = next(self._ids)
            self._engine.add(request_id, ids, params, seed=seed, choice=choice)
            submitted.append(request_id)
        return submitted

    def _drop(self, request_ids: list[int]) -> None:
        """Ends what still runs, and takes it out of the engine."""
        for request_id in request_ids:
            self._engine.abort(request_id)
        while self._engine.has_work:
            self._engine.step()

    def _collector(self, choice: int, params: SamplingParams, *, starts_text: bool) -> Collector:
        return Collector(
            Answer(choice, self._tokenizer, params, start=starts_text),
            with_logprobs=params.logprobs is not None,
            token_text=self._tokenizer.token_text,
        )


def _listed_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if prompts and isinstance(prompts[0], int):
        return [cast(list[int], prompts)]
    return cast(list[Prompt], list(prompts))


def _one_each(
    params: SamplingParams | Sequence[SamplingParams], count: int
) -> list[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise RequestError(
            f"{len(params)} sampling parameters for {count} prompts", param="sampling_params"
        )
    return list(params)
