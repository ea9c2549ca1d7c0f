"""Runs the jobs of the Python face on the engine, from submission to results."""

import itertools
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

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
from runtime.llm_started import Choice, Started
from runtime.outputs import RequestOutput
from runtime.request import TokenOutput
from runtime.seeds import seed_source
from runtime.text.answer import Answer
from runtime.text.tokenizer import Tokenizer


class Answers:
    """The engine's caller: numbers requests, draws their seeds, gathers their tokens.

    One thread calls it; `abort` is for any.
    """

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
        self._running: dict[int, Started] = {}
        self._answers: dict[int, Collector] = {}
        self._aborted: deque[int] = deque()

    def run(
        self, jobs: Sequence[Job], *, capture: str | Sequence[str] = (), show_progress: bool = False
    ) -> list[RequestOutput]:
        """The results of all jobs, in their order.

        Raises:
            RequestError: one of them cannot be served; then nothing was started.
        """
        console = Console(stderr=True)
        shown = show_progress and (console.is_terminal or console.is_jupyter)
        with (
            self._follow(jobs, capture) as started,
            Progress(disable=not shown, transient=True, console=console) as bar,
        ):
            waiting = {c.request_id: c.answer for item in started for c in item.choices}
            task = bar.add_task("requests", total=len(waiting))
            while waiting:
                for output in self.step():
                    answer = waiting.get(output.request_id)
                    if answer is not None and answer.finished:
                        del waiting[output.request_id]
                        bar.advance(task)
        return [item.result() for item in started]

    def stream(self, job: Job) -> Generator[str, None, RequestOutput]:
        """The pieces of one answer, and at last its result; leaving the loop ends the request."""
        if job.params.n != 1:
            raise RequestError(f"stream gives one answer, got n={job.params.n}", param="n")
        with self._follow([job], ()) as (started,):
            pieces, given = started.choices[0].answer.pieces, 0
            while given < len(pieces) or not started.finished:
                if given == len(pieces):
                    self.step()
                    continue
                given += 1
                if pieces[given - 1]:
                    yield pieces[given - 1]
        return started.result()

    def embed(self, jobs: Sequence[Job], *, pooling: str) -> list[TokenOutput]:
        """The outputs that bring the embeddings of all jobs, in their order.

        Raises:
            RequestError: a prompt cannot be served.
        """
        outputs: dict[int, TokenOutput | None] = {next(self._ids): None for _ in jobs}
        ids = list(outputs)
        try:
            for request_id, job in zip(ids, jobs, strict=True):
                self._engine.add(request_id, job.ids, job.params, pooling=pooling)
            while None in outputs.values():
                outputs |= {o.request_id: o for o in self.step() if o.request_id in outputs}
        finally:
            self._end(ids)
        return [output for output in outputs.values() if output is not None]

    def start(self, jobs: Sequence[Job], *, capture: str | Sequence[str] = ()) -> list[Started]:
        """Submits all jobs, or none.

        Raises:
            RequestError: one of them cannot be served.
        """
        started: list[Started] = []
        try:
            for job, probes in zip(jobs, self._probes(jobs, capture), strict=True):
                started.append(self._submit(job, probes))
        except RequestError:
            for item in started:
                for request_id in item.request_ids:
                    self._engine.abort(request_id)
            raise
        return started

    def abort(self, names: Collection[str] | None) -> None:
        """Ends the requests of these names, or all, with the next step; from any thread."""
        for item in list(self._running.values()):
            if names is None or item.name in names:
                self._aborted.extend(item.request_ids)

    def step(self) -> list[TokenOutput]:
        """Takes a step and hands its tokens to the answers that run, whoever waits for them.

        Raises:
            RequestError: no request can get its pages.
        """
        while self._aborted:
            self._engine.abort(self._aborted.popleft())
        outputs = self._engine.step()
        if self._engine.is_stuck:
            raise RequestError(
                "the pages that the next request needs are held by snapshots: release some",
                param="prompts",
            )
        for output in outputs:
            answer = self._answers.get(output.request_id)
            if answer is None or answer.finished:
                continue  # what was in flight when a stop string was found
            answer.push(output)
            if answer.finished:
                self._engine.abort(output.request_id)
        return outputs

    @contextmanager
    def _follow(self, jobs: Sequence[Job], capture: str | Sequence[str]) -> Iterator[list[Started]]:
        """Starts jobs and lets `step` feed their answers; ends what still runs when it is left."""
        started: list[Started] = []
        try:
            names = {item.name for item in self._running.values()}
            if taken := names & {job.request_id for job in jobs}:
                raise RequestError(f"request {taken.pop()!r} runs already", param="request_id")
            started += self.start(jobs, capture=capture)
            self._running |= {item.request_ids[0]: item for item in started}
            self._answers |= {c.request_id: c.answer for item in started for c in item.choices}
            yield started
        finally:
            for item in started:
                del self._running[item.request_ids[0]]
            self._end([request_id for item in started for request_id in item.request_ids])

    def _end(self, request_ids: Sequence[int]) -> None:
        """Takes requests out of the engine, whether they have ended or not."""
        for request_id in request_ids:
            self._answers.pop(request_id, None)
            self._engine.abort(request_id)
        while not self._answers and self._engine.has_work:
            self._engine.step()  # what is in flight is for nobody

    def _probes(
        self, jobs: Sequence[Job], capture: str | Sequence[str]
    ) -> list[list[Probe | None]]:
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
                scored_from=job.scored_from,
            )
            answer = Collector(
                Answer(number, self._tokenizer, job.params, start=job.starts_text),
                with_logprobs=job.params.logprobs is not None,
                tokenizer=self._tokenizer,
            )
            choices.append(Choice(request_id, answer, probe, kept))
        return Started(job, tuple(choices))


def _named(name: str, functions: Mapping[str, ScoreFunction], param: str) -> ScoreFunction:
    if name not in functions:
        known = ", ".join(functions) or "none"
        raise RequestError(f"{param} has no {name!r}: registered are {known}", param=param)
    return functions[name]
