"""Builds an engine from a model file: reads, plans memory, compiles; says how far it is."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from models.config import PAGE_SIZE, ModelConfig, model_config
from models.gguf_file import GGUFFile
from models.head_copies import on_devices
from models.kv_cache import BLOCK_Q
from models.load import load_model
from models.mesh import make_mesh, tensor_parallel_size
from models.operations import choose_operations
from runtime.buckets import Buckets
from runtime.compilation_cache import program_store, use_compilation_cache
from runtime.config import RuntimeConfig
from runtime.dispatch_thread import DispatchThread
from runtime.engine import Engine
from runtime.first_layers import first_layers
from runtime.guide import MakeGuide
from runtime.lowering import num_processes
from runtime.memory_plan import check_room, forecast, kv_budget, plan_memory, take_share
from runtime.messages import EngineInfo
from runtime.model_runner import ModelRunner
from runtime.page_pool import PagePool
from runtime.scheduler import Scheduler
from runtime.step_input import StepShape
from runtime.step_plan import Limits

logger = logging.getLogger(__name__)

# report(stage, text, fraction)
type Report = Callable[[str, str, float | None], None]


@dataclass(frozen=True)
class PlatformDefaults:
    """What suits a kind of device where the operator says nothing."""

    max_num_seqs: int
    max_num_batched_tokens: int
    min_rows: int  # XLA's CPU products of a single row do not use its matrix library


DEFAULTS = {
    "cpu": PlatformDefaults(8, 512, 2),
    "gpu": PlatformDefaults(128, 2048, 1),
}


@dataclass(frozen=True)
class _Choices:
    """The configuration with nothing left open."""

    buckets: Buckets
    max_num_seqs: int
    dtype: str
    activations: str
    kv_dtype: jnp.dtype
    num_devices: int


def start_engine(
    config: RuntimeConfig,
    file: GGUFFile,
    stop_ids: Sequence[int],
    *,
    report: Report,
    make_guide: MakeGuide | None = None,
    at_once: bool = True,
    in_two: bool = True,
) -> Engine:
    """The engine, ready to serve: nothing will be compiled.

    Args:
        file: what `config.model` names, opened.
        stop_ids: tokens that end an answer.
        make_guide: for structured outputs; None refuses them.
        at_once: all programs are there too. Else those that an earlier start has left are read
            while the engine runs, and its first steps are padded to the largest shapes.
        in_two: where it is faster the steps of lone prompts are two programs.

    Raises:
        ModelFileError: the file is broken or not supported.
        ValueError: the configuration does not fit the model or the device, or there is none.
    """
    use_compilation_cache(config.compilation_cache_dir)
    take_share(config.gpu_memory_utilization)
    _start_back_end()
    in_file = model_config(file)
    chosen = _choose(config, in_file)
    model_facts = on_devices(in_file, chosen.num_devices)
    mesh = make_mesh(chosen.num_devices)
    # the first array on a GPU has JAX take its memory, for more than a second
    jax.block_until_ready([jax.device_put(0, device) for device in mesh.devices.flat])

    expected = forecast(
        mesh.devices.flat[0],
        model_facts,
        chosen.buckets,
        itemsize=jnp.dtype(chosen.dtype).itemsize,
        num_devices=chosen.num_devices,
    )
    report("memory", expected, None)
    begin = time.monotonic()
    report("load", f"loading {file.path.name}, {file.num_bytes / 2**30:.2f} GiB", 0.0)
    operations = choose_operations(
        list(mesh.devices.flat),
        model_facts,
        itemsize=chosen.kv_dtype.itemsize,
        activation=jnp.dtype(chosen.activations).itemsize,
    )
    model = load_model(
        file,
        in_file,
        mesh,
        dtype=chosen.dtype,
        progress=lambda fraction: report("load", "loading", fraction),
        products=operations.products,
    )
    load_seconds = time.monotonic() - begin
    weight_bytes = sum(x.nbytes for x in jax.tree.leaves((model.decoder, model.head)))
    report("load", "loaded", 1.0)
    memory = plan_memory(
        model_facts,
        max_model_len=config.max_model_len,
        num_slots=chosen.buckets.num_slots,
        kv_dtype=chosen.kv_dtype,
        kv_budget=kv_budget(
            mesh.devices.flat[0],
            model_facts,
            chosen.buckets,
            num_devices=chosen.num_devices,
        ),
        num_devices=chosen.num_devices,
    )
    shape = StepShape(
        num_slots=chosen.buckets.num_slots,
        pages_per_request=-(-memory.max_model_len // PAGE_SIZE),
        vocab_size=model_facts.vocab_size,
    )
    if chosen.num_devices > 1:
        way = "through each other's memory" if operations.one_shot else "by XLA"
        report("compile", f"devices sum few rows {way}", None)
    report("compile", f"compiling for {', '.join(b.name for b in chosen.buckets.all)}", None)
    runner = ModelRunner(
        model,
        mesh,
        buckets=chosen.buckets,
        shape=shape,
        num_pages=memory.num_pages,
        kv_dtype=chosen.kv_dtype,
        operations=operations,
        # for two GPUs XLA crashed when several threads compiled (docs/performance.md)
        num_threads=(os.cpu_count() or 1) if chosen.num_devices == 1 else 1,
        num_processes=num_processes(mesh.devices.flat[0], chosen.num_devices),
        store=program_store(
            config.compilation_cache_dir, mesh.devices.flat, model_facts, operations, chosen
        ),
        at_once=at_once,
        first_layers=first_layers(
            model_facts,
            chosen.buckets,
            mesh.devices.flat[0],
            num_devices=chosen.num_devices,
            activation=jnp.dtype(chosen.activations).itemsize,
        )
        if in_two
        else {},
    )
    programs = runner.programs
    check_room(mesh.devices.flat[0], programs.step_bytes)
    info = EngineInfo(
        model_name=model_facts.name,
        device=f"{chosen.num_devices} × {mesh.devices.flat[0].device_kind}",
        dtype=chosen.dtype,
        attention=operations.attention_name,
        tensor_parallel_size=chosen.num_devices,
        max_model_len=memory.max_model_len,
        max_num_seqs=chosen.max_num_seqs,
        page_size=PAGE_SIZE,
        num_pages=memory.num_pages,
        vocab_size=model_facts.vocab_size,
        num_programs=programs.num_programs,
        num_programs_cached=programs.num_cached,
        compile_seconds=programs.seconds,
        load_seconds=load_seconds,
        weight_bytes=weight_bytes,
        kv_bytes=memory.kv_bytes,
        step_bytes=programs.step_bytes,
    )
    limits = Limits(
        num_slots=chosen.max_num_seqs,
        num_blocks=chosen.buckets.max_tokens // BLOCK_Q,
        block_q=BLOCK_Q,
        page_size=PAGE_SIZE,
        pages_per_request=shape.pages_per_request,
    )
    scheduler = Scheduler(
        limits,
        PagePool(memory.num_pages),
        prefix_caching=config.enable_prefix_caching,
        batch_invariant=config.batch_invariant,
    )
    return Engine(
        scheduler,
        runner if chosen.num_devices == 1 else DispatchThread(runner),
        buckets=chosen.buckets,
        shape=shape,
        info=info,
        stop_ids=stop_ids,
        make_guide=make_guide,
        sites=runner.instrumented.shapes,
        pure_model=runner.pure_model,
        ready=programs.forward,
    )


def fastest_faithful_dtype() -> str:
    """bfloat16 where the machine multiplies it, else float32."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def _start_back_end() -> None:
    """Has JAX look for its devices.

    Raises:
        ValueError: it has none.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that a platform has some
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error) or f"JAX_PLATFORMS={asked} has no device"
        raise ValueError(f"JAX has nothing to compute on: {reason}") from error


def _choose(config: RuntimeConfig, model: ModelConfig) -> _Choices:
    defaults = DEFAULTS["cpu" if jax.default_backend() == "cpu" else "gpu"]
    max_num_seqs = config.max_num_seqs or defaults.max_num_seqs
    num_slots = max(max_num_seqs, defaults.min_rows)
    max_tokens = config.max_num_batched_tokens or max(
        defaults.max_num_batched_tokens, (-(-num_slots // BLOCK_Q) + 1) * BLOCK_Q
    )
    dtype = fastest_faithful_dtype() if config.dtype == "auto" else config.dtype
    activations = "float32" if dtype == "int8" else dtype
    kv_dtype = activations if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    return _Choices(
        buckets=Buckets(
            num_slots=num_slots,
            max_tokens=max_tokens // BLOCK_Q * BLOCK_Q,
            min_rows=defaults.min_rows,
            one_shape=config.batch_invariant,
        ),
        max_num_seqs=max_num_seqs,
        dtype=dtype,
        activations=activations,
        kv_dtype=jnp.dtype(kv_dtype),
        num_devices=tensor_parallel_size(
            model, config.tensor_parallel_size, jax.local_device_count()
        ),
    )
