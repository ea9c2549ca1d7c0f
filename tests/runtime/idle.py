"""What every call leaves behind: nothing."""

from runtime.llm import LLM


def assert_idle(llm: LLM) -> None:
    scheduler = llm.engine.scheduler
    scheduler.check()
    assert scheduler.pool.num_used == 0
    assert not llm.engine.has_work
