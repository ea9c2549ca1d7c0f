"""The Python face: a model in this process, the same engine and programs as the server's."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, Self

from models import demo
from models.gguf_file import open_gguf
from runtime.config import RuntimeConfig
from runtime.embedding import embed
from runtime.engine import Engine
from runtime.experiments.pure_model import Params as Weights
from runtime.experiments.pure_model import PureModel
from runtime.experiments.score_functions import Processor, Sampler, make_processor, make_sampler
from runtime.experiments.scoring import Score, score
from runtime.guidance import GuideMaker
from runtime.kv_snapshot import KVSnapshot
from runtime.llm_answers import Answers
from runtime.llm_contexts import answer_context, branches, extended, prompt_context
from runtime.llm_jobs import JobMaker
from runtime.llm_prompts import (
    Interventions,
    Messages,
    Names,
    Params,
    Prompt,
    listed_continuations,
    token_ids,
)
from runtime.outputs import EmbeddingOutput, RequestOutput
from runtime.request import SamplingParams
from runtime.start import start_engine
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_process import TemplateWorker
from runtime.text.tokenizer import build_tokenizer


class LLM:
    """A model file, loaded and compiled; use it as a context manager or call `close`.

    Calls are synchronous and, but for `abort`, not for several threads at once (`AsyncLLM` is).
    Without a seed in its parameters, each request draws one.

    Args:
        model: path of the GGUF file, or "demo" for the model that ships with ggjax.
        chat_template: Jinja text to use instead of the file's.
        report: called with each line of progress while loading.
        logits_processors: by name, traced functions (scores [V], state) -> (scores, state); see
            `runtime.experiments.score_functions`.
        samplers: by name, traced functions (scores [V], key, params) -> token id.
        options: the fields of `runtime.config.RuntimeConfig`, the flags of `ggjax serve`.

    Raises:
        ModelFileError: the file is broken or not supported.
        ValueError: an option is out of range or does not fit the model, a processor or a sampler is
            no function.
    """

    def __init__(
        self,
        model: str,
        *,
        chat_template: str | None = None,
        report: Callable[[str], None] = lambda _: None,
        logits_processors: Mapping[str, Processor] | None = None,
        samplers: Mapping[str, Sampler] | None = None,
        **options: Any,
    ):
        path = demo.PATH if model == demo.NAME else model
        config = RuntimeConfig(model=str(path), **options)
        processors = {name: make_processor(f) for name, f in (logits_processors or {}).items()}
        own_samplers = {name: make_sampler(f) for name, f in (samplers or {}).items()}
        file = open_gguf(config.model)
        self._tokenizer = tokenizer = build_tokenizer(file.metadata)
        own_template = file.metadata.get("tokenizer.chat_template")
        source = chat_template or (own_template if isinstance(own_template, str) else None)
        with ExitStack() as opened:  # what is open is closed again if the start fails
            self.engine: Engine = start_engine(
                config,
                file,
                sorted(self._tokenizer.stop_ids),
                report=lambda stage, text, fraction: report(text),
                make_guide=GuideMaker(lambda: tokenizer).make,
            )
            worker = opened.enter_context(closing(TemplateWorker()))
            self._opened = opened.pop_all()
        self.jobs = JobMaker(tokenizer, ChatTemplate(source, tokenizer, worker))
        self.answers = Answers(
            self.engine,
            self._tokenizer,
            seed=config.seed,
            processors=processors,
            samplers=own_samplers,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the device's memory and ends the template process; once more, it does nothing."""
        self._opened.close()
        for name in ("engine", "answers"):
            vars(self).pop(name, None)

    @property
    def info(self) -> Any:
        """What was loaded: `runtime.messages.EngineInfo`."""
        return self.engine.info

    @property
    def model(self) -> PureModel:
        """The served weights as a function: `model.forward(llm.params, tokens)`."""
        return self.engine.pure_model

    @property
    def params(self) -> Weights:
        """The served weights by name, on the device, as `model.forward` takes them."""
        return self.engine.pure_model.params

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        """What can be captured and changed: the shape of one token's value at each site."""
        return dict(self.engine.sites)

    def tokenize(self, text: str, *, parse_special: bool = True) -> list[int]:
        """The ids of a text; `parse_special` reads control tokens in it."""
        return self.jobs.tokenize(text, parse_special=parse_special)

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return self._tokenizer.decode(token_ids, skip_special=skip_special_tokens)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        *,
        use_tqdm: bool = True,
        capture: str | Sequence[str] = (),
        interventions: Interventions = (),
        keep_kv: bool = False,
        logits_processors: Names = (),
        sampler: str | None = None,
    ) -> list[RequestOutput]:
        """Answers to prompts, in their order.

        Args:
            prompts: a text, token ids, vLLM's dictionary of one of them, a snapshot to continue,
                or a list of these.
            sampling_params: one for all or one each.
            use_tqdm: show a progress bar where there is a terminal (vLLM's name for it).
            capture: sites whose values to return, one or a list, as `layers.*.resid_post`.
            interventions: changes to values inside the model, for all or a list for each prompt.
            keep_kv: keep each answer's context, as its `snapshot`.
            logits_processors: names of registered ones, for all or a list for each prompt; they
                run before penalties and biases, and reported log-probabilities are theirs.
            sampler: name of a registered one, in place of our own.

        Raises:
            RequestError: a prompt or a parameter cannot be served; then nothing was started.
        """
        jobs = self.jobs.of_prompts(
            prompts,
            sampling_params,
            interventions=interventions,
            keeps=keep_kv,
            logits_processors=logits_processors,
            sampler=sampler,
        )
        return self.answers.run(jobs, capture=capture, show_progress=use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: Params = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        use_tqdm: bool = True,
        capture: str | Sequence[str] = (),
        interventions: Interventions = (),
    ) -> list[RequestOutput]:
        """Answers to conversations in OpenAI's form, one or a list of them; see `generate`."""
        jobs = self.jobs.of_chats(
            messages,
            sampling_params,
            interventions=interventions,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
        )
        return self.answers.run(jobs, capture=capture, show_progress=use_tqdm)

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
        return embed(
            self.answers, self.jobs.of_prompts(prompts), pooling=pooling, normalize=normalize
        )

    def abort(self, request_ids: str | Collection[str] | None = None) -> None:
        """Ends requests; from any thread, or in the loop over a stream.

        Their answers end with what they have and the finish reason "abort". Ids that have ended are
        ignored.

        Args:
            request_ids: of `stream`, or as `RequestOutput.request_id`; None for all that run.
        """
        names = {request_ids} if isinstance(request_ids, str) else request_ids
        self.answers.abort(names)

    def stream(
        self,
        prompt: Prompt | Messages,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
    ) -> Generator[str, None, RequestOutput]:
        """The pieces of one answer as they come; leaving the loop early ends the request.

        The generator returns the whole result: `result = yield from llm.stream(…)`.

        Args:
            prompt: a text, token ids, or the messages of a chat.
            request_id: for `abort`; a number is drawn without it.
        """
        job = self.jobs.one(prompt, sampling_params)
        return self.answers.stream(replace(job, request_id=request_id))

    def score(
        self, prompt: str | list[int], continuations: Sequence[str | list[int]]
    ) -> list[Score]:
        """How likely each continuation of the prompt is: per token, and as a whole.

        The engine computes the full pages of the prompt once, and all continuations together.

        Raises:
            RequestError: the prompt or a continuation is empty, or both together are longer than
                the model's limit, of which a token is left for an answer.
        """
        prompt_ids = (
            self.tokenize(prompt) if isinstance(prompt, str) else token_ids(prompt, param="prompt")
        )
        listed = [
            self._behind(item, "continuations") for item in listed_continuations(continuations)
        ]
        return score(self.answers, prompt_ids, listed, max_length=self.info.max_model_len)

    def snapshot(self, request: Prompt | RequestOutput) -> KVSnapshot:
        """The keys and values of a context, to continue from as often as wanted.

        Args:
            request: a prompt, which is computed; or a result of `generate(…, keep_kv=True)`, for
                the context of its first answer.

        Raises:
            RequestError: the prompt cannot be served, or the result has kept nothing.
        """
        if isinstance(request, RequestOutput):
            return answer_context(request)
        job = self.jobs.one(request, SamplingParams(temperature=0, max_tokens=1))
        return prompt_context(self.answers, job)

    def fork(self, snapshot: KVSnapshot, n: int) -> list[KVSnapshot]:
        """`n` snapshots of the same pages: references, nothing is copied."""
        return branches(snapshot, n)

    def restore(self, snapshot: KVSnapshot, more: str | Sequence[int] = ()) -> KVSnapshot:
        """The context with a text or tokens behind it: a prompt that computes only these."""
        return extended(snapshot, self._behind(more, "more"))

    def _behind(self, more: object, param: str) -> list[int]:
        """The ids of what follows a context, a text or ids."""
        if isinstance(more, str):
            return self._tokenizer.encode(more, parse_special=True)
        return token_ids(more, param=param)
