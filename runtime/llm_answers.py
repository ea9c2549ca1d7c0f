"""Runs the jobs of the Python face on the engine, from submission to results."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import Progress

from models.sites import expand_sites
from runtime.collect import Collector
from runtime.engine import Engine
from runtime.errors import RequestError
from runtime.experiments.interventions import make_edits
from runtime.experiments.probe import Instrument, Probe
from runtime.experiments.score_functions import Processing, ScoreFunction
from runtime.kv_snapshot import KVSnapshot
from runtime.llm_prompts import Job
from runtime.outputs import CompletionOutput, RequestOutput
from runtime.seeds import seed_source
from runtime.text.answer import Answer
from runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Choice:
    """One request in the engine, and the answer that it becomes."""

    request_id: int
    answer: Collector
    probe: Probe | None
    kept: list[KVSnapshot] | None

    def output(self, num_prompt: int) -> CompletionOutput:
        """The answer so far."""
        output = self.answer.output()
        num_tokens = num_prompt + len(output.token_ids)
        if self.probe and self.probe.wanted and self.answer.finished:
            # the last token was chosen and never computed
            output = replace(output, captured=self.probe.captured(num_tokens - 1))
        if self.kept:
            output = replace(output, snapshot=self.kept[0].copy(upto=num_tokens))
        return output


@dataclass(frozen=True)
class Started:
    """A job under way: its answers, as many as its `n`."""

    job: Job
    choices: tuple[Choice, ...]

    @property
    def request_ids(self) -> list[int]:
        """Its numbers in the engine."""
        return [choice.request_id for choice in self.choices]

    @property
    def finished(self) -> bool:
        """Whether all answers have ended."""
        return all(choice.answer.finished for choice in self.choices)

    def result(self, request_id: str | None = None) -> RequestOutput:
        """What there is of it, in the caller's form."""
        return RequestOutput(
            request_id=request_id or str(self.choices[0].request_id),
            prompt=self.job.text,
            prompt_token_ids=self.job.ids,
            outputs=[choice.output(len(self.job.ids)) for choice in self.choices],
            num_cached_tokens=self.choices[0].answer.num_cached_tokens,
            prompt_logprobs=self.choices[0].answer.prompt_logprobs,
            finished=self.finished,
        )


class Answers:
    """The engine's caller: numbers requests, draws their seeds, gathers their tokens."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        seed: int | None,
        processors: Mapping[str, ScoreFunction],
        samplers: Mapping[str, ScoreFunction],
    ):
        self._engine = engine
        self._processors = processors
        self._samplers = samplers
        self._tokenizer = tokenizer
        self._ids = itertools.count()
        self._next_seed = seed_source(seed)

    def next_id(self) -> int:
        """A number for a request."""
        return next(self._ids)

    def run(
        self, jobs: Sequence[Job], *, capture: Sequence[str] = (), show_progress: bool = False
    ) -> list[RequestOutput]:
        """The results of all jobs, in their order.

        Raises:
            RequestError: one of them cannot be served; then nothing was started.
        """
        started = self.start(jobs, capture=capture)
        waiting = {c.request_id: c.answer for item in started for c in item.choices}
        console = Console(stderr=True)
        shown = show_progress and (console.is_terminal or console.is_jupyter)
        try:
            with Progress(disable=not shown, transient=True, console=console) as bar:
                task = bar.add_task("requests", total=len(waiting))
                while waiting:
                    for request_id in self._step(waiting):
                        del waiting[request_id]
                        bar.advance(task)
        finally:
            self.drop([request_id for item in started for request_id in item.request_ids])
        return [item.result() for item in started]

    def stream(self, job: Job) -> Iterator[str]:
        """The pieces of one answer; leaving the loop ends the request."""
        if job.params.n != 1:
            raise RequestError(f"stream gives one answer, got n={job.params.n}", param="n")
        (started,) = self.start([job])
        ((request_id,), (choice,)) = started.request_ids, started.choices
        try:
            while not started.finished:
                for output in self._engine.step():
                    if output.request_id == request_id and (piece := choice.answer.push(output)):
                        yield piece
        finally:
            self.drop([request_id])

    def start(self, jobs: Sequence[Job], *, capture: Sequence[str] = ()) -> list[Started]:
        """Submits all jobs, or none.

        Raises:
            RequestError: one of them cannot be served.
        """
        started: list[Started] = []
        try:
            for job, probes in zip(jobs, self._probes(jobs, capture), strict=True):
                started.append(self._submit(job, probes))
        except RequestError:
            self.drop([request_id for item in started for request_id in item.request_ids])
            raise
        return started

    def drop(self, request_ids: Sequence[int]) -> None:
        """Ends what still runs, and takes it out of the engine."""
        for request_id in request_ids:
            self._engine.abort(request_id)
        while self._engine.has_work:
            self._engine.step()

    def _step(self, waiting: dict[int, Collector]) -> list[int]:
        """The requests that ended in the next step."""
        ended: list[int] = []
        outputs = self._engine.step()
        if self._engine.is_stuck:
            raise RequestError(
                "the pages that the next request needs are held by snapshots: release some",
                param="prompts",
            )
        for output in outputs:
            answer = waiting.get(output.request_id)
            if answer is None or answer.finished:
                continue  # an abort, or what was in flight when a stop string was found
            answer.push(output)
            if answer.finished:
                ended.append(output.request_id)
                self._engine.abort(output.request_id)
        return ended

    def _probes(self, jobs: Sequence[Job], capture: Sequence[str]) -> list[list[Probe | None]]:
        """One for each choice of each job; none where nothing is looked at."""
        shapes = self._engine.sites
        try:
            wanted = tuple(expand_sites(capture, shapes))
        except ValueError as error:
            raise RequestError(str(error), param="capture") from None
        if any(job.origin and job.params.prompt_logprobs is not None for job in jobs):
            raise RequestError(
                "a snapshot's prompt is not computed again, so it has no prompt_logprobs",
                param="prompt_logprobs",
            )
        functions = [self._functions(job) for job in jobs]
        edits = [make_edits(job.interventions, shapes, num_prompt=len(job.ids)) for job in jobs]
        changed = frozenset(edit.name for own in edits for edit in own)
        if not wanted and not changed and not any(functions):
            return [[None] * job.params.n for job in jobs]
        instrument = Instrument(frozenset(wanted), changed)
        return [
            [
                Probe(instrument, wanted, own, Processing(called) if called else None)
                for _ in range(job.params.n)
            ]
            for job, own, called in zip(jobs, edits, functions, strict=True)
        ]

    def _functions(self, job: Job) -> list[ScoreFunction]:
        functions = [
            _named(name, self._processors, "logits_processors") for name in job.logits_processors
        ]
        if job.sampler is not None:
            functions.append(_named(job.sampler, self._samplers, "samplers"))
        return functions

    def _submit(self, job: Job, probes: Sequence[Probe | None]) -> Started:
        seed = self._next_seed() if job.params.seed is None else job.params.seed
        choices = []
        for number, probe in enumerate(probes):
            request_id = next(self._ids)
            kept: list[KVSnapshot] | None = [] if job.keeps else None
            ordinary = probe is None and job.origin is None
            self._engine.add(
                request_id,
                job.ids,
                job.params,
                seed=seed,
                choice=number,
                # pages of an experiment hold other values, and cached ones would not be seen
                cache_salt="" if ordinary else f"experiment {request_id}",
                probe=probe,
                origin=job.origin,
                kept=kept,
            )
            answer = Collector(
                Answer(number, self._tokenizer, job.params, start=job.starts_text),
                with_logprobs=job.params.logprobs is not None,
                token_text=self._tokenizer.token_text,
            )
            choices.append(Choice(request_id, answer, probe, kept))
        return Started(job, tuple(choices))


def _named(name: str, functions: Mapping[str, ScoreFunction], param: str) -> ScoreFunction:
    if name not in functions:
        known = ", ".join(functions) or "none"
        raise RequestError(f"{param} has no {name!r}: registered are {known}", param=param)
    return functions[name]
