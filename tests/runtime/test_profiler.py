"""The engine's traces: written where they should be, one at a time, failures in words."""

from pathlib import Path

from runtime.messages import StartProfile, StopProfile
from runtime.profiler import Profiler


def test_a_trace_is_written(tmp_path: Path) -> None:
    profiler = Profiler()
    assert profiler.take(StopProfile()).error == "no profile runs; /start_profile starts one"
    start = StartProfile(str(tmp_path / "traces"))
    assert profiler.take(start).error is None
    assert profiler.take(start).error == "a profile runs already; /stop_profile ends it"
    assert profiler.take(StopProfile()).error is None
    assert list(tmp_path.glob("traces/**/*.xplane.pb"))


def test_a_folder_that_cannot_be_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    profiler = Profiler()
    refused = profiler.take(StartProfile(str(tmp_path / "file" / "traces"))).error
    assert refused is not None and "the profile cannot be started" in refused
    assert profiler.take(StopProfile()).error == "no profile runs; /start_profile starts one"
    assert profiler.take(StartProfile(str(tmp_path / "traces"))).error is None
    assert profiler.take(StopProfile()).error is None
