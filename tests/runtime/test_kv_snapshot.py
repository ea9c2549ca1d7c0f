"""Contexts kept as values: continued, forked, cut and extended without computing them again."""

import gc

import pytest

from runtime.errors import RequestError
from runtime.experiments.interventions import Scale
from runtime.kv_snapshot import KVSnapshot
from runtime.llm import LLM
from runtime.page_pool import PagePool
from runtime.request import SamplingParams

PROMPT = list(range(100, 240))  # two full pages and 12 tokens
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def answers(outputs):
    return [output.outputs[0].token_ids for output in outputs]


@pytest.fixture(autouse=True)
def nothing_is_left_behind(llm: LLM):
    yield
    gc.collect()
    assert llm.engine.scheduler.pool.num_used == 0


def test_continuing_a_snapshot_is_continuing_its_prompt(llm: LLM) -> None:
    expected = answers(llm.generate([PROMPT], GREEDY))[0]
    snapshot = llm.snapshot(PROMPT)
    assert snapshot.token_ids == tuple(PROMPT)
    computed = llm.engine.stats().prompt_tokens
    assert answers(llm.generate([snapshot] * 3, GREEDY)) == [expected] * 3
    # the last token of each alone: after it the next is chosen
    assert llm.engine.stats().prompt_tokens == computed + 3


def test_forks_share_full_pages_and_copy_the_last(llm: LLM) -> None:
    pool = llm.engine.scheduler.pool
    snapshot = llm.snapshot(PROMPT)
    assert pool.num_used == len(snapshot.pages) == 3
    forks = llm.fork(snapshot, 4)
    assert pool.num_used == 3
    assert [pool.num_references(page) for page in snapshot.pages] == [5, 5, 5]
    params = [SamplingParams(temperature=2.0, seed=i, max_tokens=8) for i in range(4)]
    outputs = llm.generate(forks, params, keep_kv=True)
    assert len({tuple(ids) for ids in answers(outputs)}) == 4
    kept = [output.outputs[0].snapshot for output in outputs]
    assert all(own.pages[:2] == snapshot.pages[:2] for own in kept)
    assert len({own.pages[2] for own in kept} | {snapshot.pages[2]}) == 5
    # what the forks wrote is not in the snapshot
    assert answers(llm.generate([snapshot], GREEDY)) == answers(llm.generate([PROMPT], GREEDY))


def test_a_kept_answer_goes_on_where_it_ended(llm: LLM) -> None:
    long = SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)
    expected = answers(llm.generate([PROMPT], long))[0]
    (first,) = llm.generate([PROMPT], GREEDY, keep_kv=True)
    rest = SamplingParams(temperature=0, max_tokens=72, ignore_eos=True)
    (second,) = llm.generate([llm.snapshot(first)], rest)
    assert first.outputs[0].token_ids + second.outputs[0].token_ids == expected


def test_a_counterfactual_shares_what_is_the_same(llm: LLM) -> None:
    snapshot = llm.snapshot(PROMPT)
    paths = [llm.restore(snapshot, [7, 8, 9]), llm.restore(snapshot, "x = 1")]
    spelled = [[*PROMPT, 7, 8, 9], PROMPT + llm.tokenize("x = 1")]
    assert answers(llm.generate(paths, GREEDY)) == answers(llm.generate(spelled, GREEDY))


def test_a_stop_string_cuts_the_kept_context(llm: LLM) -> None:
    (whole,) = llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True))
    stop = whole.outputs[0].text[10:13]
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, stop=stop)
    (output,) = llm.generate([PROMPT], params, keep_kv=True)
    kept = output.outputs[0].snapshot
    assert list(kept.token_ids) == PROMPT + output.outputs[0].token_ids
    expected = answers(llm.generate([list(kept.token_ids)], GREEDY))
    assert answers(llm.generate([kept], GREEDY)) == expected


def test_an_experiments_context_stays_changed(llm: LLM) -> None:
    changes = [Scale("layers.0.attn.out", 3.0)]
    (changed,) = llm.generate([PROMPT], GREEDY, interventions=changes, keep_kv=True)
    (after,) = llm.generate([llm.snapshot(changed)], GREEDY)
    plain = llm.generate([PROMPT + changed.outputs[0].token_ids], GREEDY)
    assert answers([after]) != answers(plain)


def test_a_preempted_fork_begins_at_its_snapshot_again(llm: LLM) -> None:
    long = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    expected = answers(llm.generate([PROMPT], long))[0]
    scheduler = llm.engine.scheduler
    snapshot = llm.snapshot(PROMPT)
    hidden = [scheduler.pool.allocate() for _ in range(scheduler.pool.num_free - 8)]
    before = scheduler.num_preemptions
    assert answers(llm.generate(llm.fork(snapshot, 4), long)) == [expected] * 4
    assert scheduler.num_preemptions > before
    scheduler.pool.release(hidden)


def test_snapshots_that_hold_all_pages_are_named(llm: LLM) -> None:
    pool = llm.engine.scheduler.pool
    held = [pool.allocate() for _ in range(pool.num_free)]
    with pytest.raises(RequestError, match="held by snapshots"):
        llm.generate([PROMPT], GREEDY)
    pool.release(held)
    assert not llm.engine.has_work


def test_a_released_snapshot_cannot_be_used(llm: LLM) -> None:
    snapshot = llm.snapshot(PROMPT)
    snapshot.release()
    snapshot.release()
    assert llm.engine.scheduler.pool.num_used == 0
    with pytest.raises(ValueError, match="was released"):
        llm.generate([snapshot])


def test_a_continued_prompt_has_no_scores(llm: LLM) -> None:
    with pytest.raises(RequestError, match="has no prompt_logprobs"):
        llm.generate([llm.snapshot(PROMPT)], SamplingParams(prompt_logprobs=0))


def test_a_result_that_kept_nothing_has_no_snapshot(llm: LLM) -> None:
    (output,) = llm.generate([PROMPT], GREEDY)
    with pytest.raises(RequestError, match="keep_kv=True"):
        llm.snapshot(output)


def test_only_snapshots_are_forked_and_restored(llm: LLM) -> None:
    with pytest.raises(RequestError, match="a snapshot is wanted, got 'x'"):
        llm.fork("x", 2)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a snapshot is wanted, got 'x'"):
        llm.restore("x", "y")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="more are texts or lists of token ids, got 5"):
        llm.restore(llm.snapshot(PROMPT), 5)  # type: ignore[arg-type]
    for n in (-1, 1.5, True):
        with pytest.raises(RequestError, match="how many snapshots to make"):
            llm.fork(llm.snapshot(PROMPT), n)  # type: ignore[arg-type]
    assert llm.fork(llm.snapshot(PROMPT), 0) == []


def test_copies_are_references() -> None:
    pool = PagePool(4)
    pages = [pool.allocate(), pool.allocate()]
    first = KVSnapshot(pool, pages, range(70), 70)
    pool.release(pages)
    second = first.copy(upto=65, more=[1, 2])
    assert (second.token_ids, second.num_computed) == ((*range(65), 1, 2), 65)
    first.release()
    assert pool.num_used == 2 and second.is_held and not first.is_held
    del second
    gc.collect()
    assert pool.num_used == 0
