"""JAX's profiler while the engine serves: one trace at a time, started and ended by messages."""

from pathlib import Path

import jax

from runtime.messages import Profiled, StartProfile, StopProfile


class Profiler:
    """Traces of the engine process."""

    def __init__(self) -> None:
        self._is_running = False

    def take(self, message: StartProfile | StopProfile) -> Profiled:
        """Starts a trace, or ends and writes the one that runs; the answer says if it could not."""
        if isinstance(message, StartProfile):
            if self._is_running:
                return Profiled("a profile runs already; /stop_profile ends it")
            try:
                # JAX notices when it writes, and then believes for ever that a profile runs
                Path(message.directory).mkdir(parents=True, exist_ok=True)
                settings = jax.profiler.ProfileOptions()
                settings.python_tracer_level = 0  # it would slow the steps and the writing down
                jax.profiler.start_trace(message.directory, profiler_options=settings)
            except (OSError, RuntimeError) as error:
                return Profiled(f"the profile cannot be started: {error}")
            self._is_running = True
            return Profiled()
        if not self._is_running:
            return Profiled("no profile runs; /start_profile starts one")
        self._is_running = False
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:
            return Profiled(f"the profile cannot be written: {error}")
        return Profiled()
