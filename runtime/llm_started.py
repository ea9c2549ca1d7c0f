"""Jobs of the Python face that the engine runs: their answers so far."""

from dataclasses import dataclass, replace

from runtime.collect import Collector
from runtime.experiments.probe import Probe
from runtime.kv_snapshot import KVSnapshot
from runtime.llm_prompts import Job
from runtime.outputs import CompletionOutput, RequestOutput


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
        # an answer that was ended while it waited has no values
        if self.probe and self.probe.record and self.answer.finished:
            # the last token was chosen and never computed
            num_computed = max(num_prompt, num_tokens - 1)
            output = replace(output, captured=self.probe.captured(num_computed))
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
    def name(self) -> str:
        """What its caller knows it by."""
        return self.job.request_id or str(self.choices[0].request_id)

    @property
    def finished(self) -> bool:
        """Whether all answers have ended."""
        return all(choice.answer.finished for choice in self.choices)

    def result(self) -> RequestOutput:
        """What there is of it, in the caller's form."""
        return RequestOutput(
            request_id=self.name,
            prompt=self.job.text,
            prompt_token_ids=self.job.ids,
            outputs=[choice.output(len(self.job.ids)) for choice in self.choices],
            num_cached_tokens=self.choices[0].answer.num_cached_tokens,
            prompt_logprobs=self.choices[0].answer.prompt_logprobs,
            finished=self.finished,
        )
