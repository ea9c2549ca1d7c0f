"""Snapshots for the callers of the Python face: of a prompt's context, and of an answer's."""

from collections.abc import Sequence
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


def branches(snapshot: KVSnapshot, n: int) -> list[KVSnapshot]:
    """`n` snapshots of the same pages.

    Raises:
        RequestError: the first is no snapshot, or `n` no number.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise RequestError(f"n is how many snapshots to make, got {n!r}", param="n")
    return [_snapshot(snapshot).copy() for _ in range(n)]


def extended(snapshot: KVSnapshot, token_ids: Sequence[int]) -> KVSnapshot:
    """The snapshot with tokens behind its context.

    Raises:
        RequestError: it is no snapshot.
    """
    return _snapshot(snapshot).copy(more=token_ids)


def _snapshot(value: object) -> KVSnapshot:
    if not isinstance(value, KVSnapshot):
        raise RequestError(
            f"a snapshot is wanted, got {value!r}: LLM.snapshot makes one of a prompt or an answer",
            param="snapshot",
        )
    return value


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
