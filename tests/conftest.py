"""Options and fixtures that every test folder shares."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# the modules beside the tests, too, say what did not hold
pytest.register_assert_rewrite("tests.models", "tests.runtime", "tests.server")

# a busy machine is no failure
settings.register_profile("no deadline", settings(), deadline=None)
settings.load_profile("no deadline")

# Most of the time goes into compiling: what one test has compiled, others and the servers that they
# start find. JAX reads its variables when it is imported.
_programs = tempfile.TemporaryDirectory(prefix="ggjax-programs-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _programs.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

TESTS = Path(__file__).resolve().parent
BESIDE = TESTS.parents[1]
MODEL_NAME = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"

# Several processes share the files: those that take longest begin first, so that all end together,
# and what they compile is there for those that follow.
FIRST = ["examples", "model", "runtime/experiments", "models", "training"]

# Folders whose programs are their own, many, and run a few times: without optimisation they compile
# in two thirds of the time.
COMPILE_QUICKLY = {"models", "profiling", "runtime"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=BESIDE / "shared" / "goldens",
        help="reference data computed by llama.cpp",
    )
    parser.addoption(
        "--model",
        type=Path,
        default=BESIDE / "models" / MODEL_NAME,
        help="Qwen2.5-Coder-0.5B-Instruct Q4_K_M, as a GGUF file",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without optimisation in some folders, but for modules that say `OPTIMISED = True`.

    No fixture, for those of a session are made before those of a module.
    """
    import jax  # not before the variables above are set

    folder = item.path.relative_to(TESTS).parts[0]
    module = item.getparent(pytest.Module)
    quick = folder in COMPILE_QUICKLY and not getattr(module and module.obj, "OPTIMISED", False)
    jax.config.update("jax_disable_most_optimizations", quick)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders of long files first, for `pytest -n 2 --no-loadscope-reorder` (see `make test`)."""

    def rank(item: pytest.Item) -> int:
        folders = (TESTS / folder for folder in FIRST)
        within = (i for i, folder in enumerate(folders) if item.path.is_relative_to(folder))
        return next(within, len(FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    path: Path = request.config.getoption("--goldens")
    if not path.is_dir():
        pytest.skip(f"no reference data at {path}")
    return path


@pytest.fixture(scope="session")
def model_file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.config.getoption("--model")
    if not path.is_file():
        pytest.skip(f"no model at {path}")
    return path
