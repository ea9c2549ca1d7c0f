"""One started engine for all tests: the tiny model, two rows, prompts of up to two blocks."""

import pytest

from benchmarks.make_gguf import write_gguf
from profiling.ceilings import Ceilings
from profiling.start_times import Started, measure_start
from runtime.compilation_cache import not_through_xla

# of no machine: a round number for arithmetic
CEILINGS = Ceilings(bytes_per_second=1e9, flops_per_second=1e12, dtype="float32")


@pytest.fixture(scope="session")
def started(tmp_path_factory) -> Started:
    path = write_gguf(tmp_path_factory.mktemp("profiling") / "tiny.gguf")
    # another folder's tests may have compiled the same programs: these shall take their time
    with not_through_xla():
        return measure_start(
            str(path),
            batch=2,
            dtype="float32",
            compilation_cache_dir=None,
            max_num_batched_tokens=128,
        )


@pytest.fixture(scope="session")
def load(started):
    return started.load


@pytest.fixture
def ceilings() -> Ceilings:
    return CEILINGS
