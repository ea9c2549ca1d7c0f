"""A model that is being served: its names, its text side, its engine."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from models import demo
from models.gguf_file import SHARD_NAME
from runtime.config import RuntimeConfig
from runtime.messages import EngineInfo, Stats
from runtime.seeds import seed_source
from server.engine_client import ENGINE_COMMAND, EngineClient
from server.hub import resolve_model
from server.model_text import ModelText, load_text
from server.progress_log import ProgressLog

logger = logging.getLogger(__name__)

GIB = 2**30


@dataclass(frozen=True)
class ModelOptions:
    """Which model to open and how.

    Attributes:
        config: `config.model` is what the operator typed: a path or a name on the hub.
        names: what requests may call the model; empty for a name made from `config.model`.
        chat_template: a file that replaces the model's own template.
        profile_dir: where /start_profile writes; None: it is off.
        engine_command: how the engine process is started; its socket's number is appended.
    """

    config: RuntimeConfig
    names: tuple[str, ...] = ()
    chat_template: Path | None = None
    hf_token: str | None = None
    profile_dir: Path | None = None
    engine_command: tuple[str, ...] = ENGINE_COMMAND

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names for /v1/models; a path is cut down to the name of its file."""
        if self.names:
            return self.names
        path = Path(self.config.model)
        if not path.exists():
            return (self.config.model,)
        shard = SHARD_NAME.fullmatch(path.name)
        return (shard["stem"] if shard else path.name.removesuffix(".gguf"),)


@dataclass(frozen=True)
class ServedModel:
    """Everything that a request needs; it exists once the engine is ready."""

    names: tuple[str, ...]
    text: ModelText
    engine: EngineClient
    info: EngineInfo
    next_seed: Callable[[], int]
    profile_dir: Path | None = None
    created: float = field(default_factory=time.time)


@asynccontextmanager
async def open_model(
    options: ModelOptions, *, on_step: Callable[[Stats], None] | None = None
) -> AsyncIterator[ServedModel]:
    """Finds the file, reads its text side, starts the engine; ends both on the way out.

    `on_step` is told of the engine's stats after each step.

    Raises:
        ModelNotFound: there is no such model.
        ModelFileError: the file cannot be served.
        EngineNotStarted: the engine refused or died.
    """
    typed, names = options.config.model, options.served_names
    if typed == demo.NAME:
        logger.info("serving the demonstration model; it completes Python, and knows nothing")
    path = await in_thread(lambda: resolve_model(typed, token=options.hf_token))
    config = replace(options.config, model=str(path.absolute()))
    engine = EngineClient(options.engine_command, on_step=on_step)
    text = None
    try:
        await engine.launch()
        text = await in_thread(lambda: load_text(path, options.chat_template))
        with ProgressLog() as progress:
            info = await engine.start(config, text.tokenizer.stop_ids, progress.report)
        for line in start_lines(info):
            logger.info(line)
        yield ServedModel(names, text, engine, info, seed_source(config.seed), options.profile_dir)
    finally:
        await engine.stop()
        if text is not None:
            text.close()


async def in_thread[Result](work: Callable[[], Result]) -> Result:
    """`work` in a thread that does not keep the process alive, as a download must not."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def deliver(result: Result | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # it is there where no error is

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as caught:  # handed to the awaiting task, whatever it is
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, daemon=True, name="load").start()
    return await done


def start_lines(info: EngineInfo) -> Sequence[str]:
    """What users of vLLM look for in the log: memory, concurrency, compilation."""
    where = "" if "cpu" in info.device.lower() else "GPU "
    concurrency = info.kv_tokens / info.max_model_len
    return (
        f"Model loading took {info.weight_bytes / GIB:.2f} GiB memory and "
        f"{info.load_seconds:.2f} seconds",
        f"Serving on {info.device}, {info.dtype} weights, {info.attention} attention",
        f"Available KV cache memory: {info.kv_bytes / GIB:.2f} GiB; "
        f"the largest step takes {info.step_bytes / GIB:.2f} GiB besides",
        f"{where}KV cache size: {info.kv_tokens:,} tokens",
        f"Maximum concurrency for {info.max_model_len:,} tokens per request: {concurrency:.2f}x",
        f"compiled {info.num_programs} programs ({info.num_programs_cached} from cache) in "
        f"{info.compile_seconds:.1f} s",
    )
