"""Use of processor and memory: recorded while a run lasts, without a thread or a request of its own left behind."""

import logging
import threading
import time
from pathlib import Path

import pytest

from bnadapt.config import TrackingSettings
from bnadapt.tracking.recording import Run
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.system import SystemMetrics, interval

KEYS = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
}


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("system metrics")]


@pytest.fixture
def measuring(tracker: Tracker, tmp_path: Path) -> Tracker:
    return Tracker(TrackingSettings(uri=tracker.uri), tmp_path)


def work(seconds: float) -> None:
    """Keep one processor busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def test_pipelines_stages_and_arms_are_measured(measuring: Tracker) -> None:
    with measuring.pipeline("measured") as run:
        with run.stage("adapt", order=3) as stage:
            work(1.2)
            assert len(threads()) == 2
        with run.arm("bn_only") as arm:
            work(1.2)
        with run.arm("quick") as quick:
            pass
    assert threads() == []
    for each in (run, stage, arm):
        recorded = measuring.client.get_run(each.run_id).data.metrics
        assert {key for key in recorded if key.startswith("system/")} >= KEYS
        assert recorded["system/cpu_utilization_percentage"] > 1
        assert 0 < recorded["system/system_memory_usage_percentage"] <= 100
        history = measuring.client.get_metric_history(each.run_id, "system/cpu_utilization_percentage")
        assert sorted(point.step for point in history) == list(range(len(history)))
    assert len(measuring.client.get_metric_history(run.run_id, "system/cpu_utilization_percentage")) >= 2
    assert measuring.client.get_run(quick.run_id).data.metrics == {}  # nothing to be the mean of


def test_nothing_is_measured_where_it_is_not_wanted(tracker: Tracker) -> None:
    with tracker.pipeline("unmeasured") as run, run.stage("adapt", order=3):
        assert threads() == []
        work(1.1)
    assert tracker.client.get_run(run.run_id).data.metrics == {}


def test_the_thread_ends_with_a_failed_run_too(measuring: Tracker) -> None:
    def stopped() -> None:
        with measuring.pipeline("stopped") as run:
            runs.append(run)
            work(1.1)
            raise KeyboardInterrupt

    runs: list[Run] = []
    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert threads() == []
    recorded = measuring.client.get_run(runs[0].run_id)
    assert recorded.info.status == "KILLED"
    assert recorded.data.metrics.keys() >= KEYS


def test_what_was_measured_can_be_taken_after_the_end() -> None:
    began = time.monotonic()
    measured = SystemMetrics.started("run")
    assert measured is not None
    work(1.1)
    measured.finish()
    assert time.monotonic() - began < 2.5
    assert threads() == []
    samples = measured.take()
    assert {key for key, *_ in samples} >= KEYS
    assert measured.take() == []


def test_what_cannot_be_measured_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise OSError("no counters")

    monkeypatch.setattr("psutil.virtual_memory", broken)
    with caplog.at_level(logging.WARNING, logger="bnadapt"):
        measured = SystemMetrics.started("run")
        assert measured is not None
        measured.finish()
    assert "system metrics end here: OSError: no counters" in caplog.text


def test_a_run_that_cannot_be_measured_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, measuring: Tracker
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr("bnadapt.tracking.system.CPUMonitor", broken)
    with caplog.at_level(logging.WARNING, logger="bnadapt"), measuring.pipeline("no driver") as run:
        run.log_metrics({"val_accuracy": 0.5})
    assert "system metrics are not recorded: RuntimeError: no driver" in caplog.text
    assert measuring.client.get_run(run.run_id).data.metrics == {"val_accuracy": 0.5}


def test_samples_become_rarer_the_longer_a_run_lasts() -> None:
    assert interval(0) == interval(9) == 1.0
    assert interval(50) == 5.0
    assert interval(1e6) == 10.0
    assert interval(1e6, longest=60) == 60
    assert interval(0, longest=0.5) == 0.5
