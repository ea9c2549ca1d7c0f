"""Snapshots for the callers of the Python face: of a prompt's context, and of an answer's."""

from dataclasses import replace

from runtime.errors import RequestError
from runtime.kv_snapshot import KVSnapshot
from runtime.llm_answers import Answers
from runtime.llm_prompts import Job
from runtime.outputs import RequestOutput


def prompt_context(answers: Answers, job: Job) -> KVSnapshot:
    """The context of a job's prompt, which is computed; its answer is cut off again.

    Raises:
        RequestError: the prompt cannot be served.
    """
    (output,) = answers.run([replace(job, keeps=True)])
    kept = output.outputs[0].snapshot
    assert kept is not None
    return kept.copy(upto=len(output.prompt_token_ids))


def answer_context(output: RequestOutput) -> KVSnapshot:
    """The context of a result's first answer.

    Raises:
        RequestError: the result has kept nothing.
    """
    kept = output.outputs[0].snapshot
    if kept is None:
        raise RequestError(
            f"request {output.request_id} has kept nothing: generate with keep_kv=True",
            param="request",
        )
    return kept.copy()
