"""The body of POST /infill, as llama-server and its editor plug-ins write it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from runtime.errors import UnsupportedParameter
from runtime.request import SamplingParams
from server.body import Body, Strings
from server.infill_prompt import ExtraFile
from server.limits import MAX_EXTRA_FILES

# llama-server's defaults, for its own route
TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.8, 40, 0.95, 0.05
# its sampler "infill" keeps few tokens; dropping those below half of the best comes near it
INFILL_MIN_P = 0.5
# samplers that do nothing unless a field asks for it, and those fields are refused
IDLE_SAMPLERS = frozenset({"dry", "typ_p", "typical_p", "xtc", "penalties", "top_n_sigma"})
SAMPLERS = frozenset({"top_k", "top_p", "min_p", "temperature", "infill"})


def _check_samplers(names: list[str]) -> list[str]:
    for name in names:
        if name not in SAMPLERS | IDLE_SAMPLERS:
            raise UnsupportedParameter(f"sampler {name[:32]!r} is not supported", param="samplers")
    return names


class ExtraBody(Body):
    """An entry of `input_extra`."""

    text: str
    filename: str | None = None
    time: Any = None  # llama.vim's own


class InfillBody(Body):
    """POST /infill. The last fields are hints that change no answer, and are not used."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[ExtraBody] | None = Field(None, max_length=MAX_EXTRA_FILES)
    prompt: str | None = None
    model: str | None = None
    n_predict: int | None = Field(None, ge=-1)
    t_max_predict_ms: float | None = Field(None, ge=0)
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    samplers: Annotated[Strings, AfterValidator(_check_samplers)] | None = None
    seed: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    ignore_eos: bool | None = None
    stop: str | Strings | None = None
    stream: bool | None = None
    return_tokens: Literal[False] | None = None
    timings_per_token: Literal[False] | None = None
    return_progress: Literal[False] | None = None
    response_fields: Strings | None = None
    cache_salt: str | None = None

    n_indent: int | None = None
    t_max_prompt_ms: float | None = Field(None, ge=0)
    repeat_last_n: int | None = None
    n_keep: int | None = None
    n_cache_reuse: int | None = None

    @property
    def extras(self) -> list[ExtraFile]:
        found = self.input_extra or []
        return [ExtraFile(extra.filename or "tmp", extra.text) for extra in found]

    def sampling_params(self) -> SamplingParams:
        """The engine's form; a sampler that `samplers` leaves out is not used.

        Raises:
            RequestError: a value is out of its range.
        """
        used = SAMPLERS - {"infill"} if self.samplers is None else set(self.samplers)
        values: dict[str, Any] = {"temperature": 1.0}  # without that sampler: as the model has it
        for name, default in (
            ("temperature", TEMPERATURE), ("top_k", TOP_K), ("top_p", TOP_P), ("min_p", MIN_P)
        ):  # fmt: skip
            if name in used:
                given = getattr(self, name)
                values[name] = default if given is None else given
        if "infill" in used:
            values["min_p"] = max(values.get("min_p", 0.0), INFILL_MIN_P)
        # llama-server takes any negative temperature for 0, and -1 for a seed of chance
        values["temperature"] = max(0.0, values["temperature"])
        if self.seed not in (None, -1):
            values["seed"] = self.seed
        for theirs, ours in (
            ("repeat_penalty", "repetition_penalty"), ("presence_penalty", "presence_penalty"),
            ("frequency_penalty", "frequency_penalty"), ("ignore_eos", "ignore_eos"),
            ("stop", "stop"),
        ):  # fmt: skip
            if getattr(self, theirs) is not None:
                values[ours] = getattr(self, theirs)
        return SamplingParams(**values, max_tokens=None)
