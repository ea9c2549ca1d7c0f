"""The Python face of ggjax: `from ggjax import LLM, SamplingParams`."""

from importlib.util import find_spec
from pathlib import Path


def _refuse_strangers() -> None:
    """The packages have plain names, and another distribution may have installed the same ones."""
    for name in ("server", "runtime", "models", "pallas_kernels"):
        spec = find_spec(name)
        found = spec.origin if spec else None
        ours = Path(__file__).resolve().with_name(name) / "__init__.py"
        if found is None or Path(found).resolve() != ours:
            raise ImportError(
                f"ggjax needs its own package {name!r}, but Python finds {found or 'none'}: "
                "install ggjax into a virtual environment of its own"
            )


_refuse_strangers()

from runtime.async_llm import AsyncLLM  # noqa: E402
from runtime.experiments.interventions import Add, Patch, Replace, Scale  # noqa: E402
from runtime.kv_snapshot import KVSnapshot  # noqa: E402
from runtime.llm import LLM  # noqa: E402
from runtime.outputs import RequestOutput  # noqa: E402
from runtime.request import SamplingParams  # noqa: E402
from runtime.structured_outputs import StructuredOutputs  # noqa: E402

__all__ = [
    "LLM",
    "Add",
    "AsyncLLM",
    "KVSnapshot",
    "Patch",
    "Replace",
    "RequestOutput",
    "SamplingParams",
    "Scale",
    "StructuredOutputs",
]
