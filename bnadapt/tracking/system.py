"""Use of processor, memory and accelerator while a run lasts, under MLflow's own names for them."""

import logging
import threading
import time
from contextlib import suppress
from typing import Any

from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

from bnadapt.tracking.sending import point

PREFIX = "system/"  # what MLflow shows on a page of its own
SHORTEST, LONGEST = 1.0, 10.0  # seconds between two samples
SAMPLES_PER_DOUBLING = 10  # of a run's length, so that a short run has a curve and a long one is no burden

_log = logging.getLogger(__name__)


class SystemMetrics:
    """Measures in a thread of its own and holds the samples until somebody takes them.

    A run of less than a second has none.

    MLflow's monitors measure; its thread is not used. That one asks the store after every sample whether the run
    still lasts, and ends, or blocks the end of the run, where a server does not answer. This thread touches no
    store, so what it measures takes the same way as all other metrics.

    A sample costs 0.05 ms (without accelerator).
    """

    def __init__(self, run_id: str, first_step: int = 0) -> None:
        """Prepare for a run, whose samples are counted from ``first_step``; :meth:`start` starts."""
        self._longest = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or LONGEST
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), *_accelerator()]
        self._first_step = first_step
        self._samples: list[list[Any]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True, name=f"system metrics {run_id}")

    @classmethod
    def started(cls, run_id: str, first_step: int = 0) -> "SystemMetrics | None":
        """One that measures already; None, with a warning, where this machine cannot be measured."""
        try:
            measuring = cls(run_id, first_step)
            measuring.start()
        except Exception as error:
            # Drivers and counters of the operating system raise what they like, and a run is worth more.
            _log.warning("system metrics are not recorded: %s: %s", type(error).__name__, error)
            return None
        return measuring

    def start(self) -> None:
        """Start to measure."""
        self._thread.start()

    def take(self) -> list[list[Any]]:
        """What was measured since the last time, oldest first, as the queue holds metrics."""
        with self._lock:
            samples, self._samples = self._samples, []
        return samples

    def finish(self) -> None:
        """Measure the rest and end the thread; samples can still be taken."""
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        try:
            began = last = time.monotonic()
            self._collect()  # the processor's use is counted from here
            self._clear()
            step = self._first_step
            while True:
                ended = self._ended.wait(interval(last - began, self._longest))
                now = time.monotonic()
                # What little follows the last sample, and a run that takes no time, is the mean of nothing.
                if not ended or now - last >= SHORTEST:
                    self._sample(step)
                if ended:
                    return
                step, last = step + 1, now
        except Exception as error:
            _log.warning("system metrics end here: %s: %s", type(error).__name__, error)

    def _sample(self, step: int) -> None:
        self._collect()
        time_stamp = time.time_ns() // 1_000_000
        metrics = [
            point(PREFIX + key, value, time_stamp, step)
            for each in self._monitors
            for key, value in each.aggregate_metrics().items()
        ]
        self._clear()
        with self._lock:
            self._samples += metrics

    def _collect(self) -> None:
        for each in self._monitors:
            each.collect_metrics()

    def _clear(self) -> None:
        for each in self._monitors:
            each.clear_metrics()


def _accelerator() -> list[BaseMetricsMonitor]:
    for kind in (GPUMonitor, ROCMMonitor):
        with suppress(Exception):  # each raises types of its own where there is none, or no driver for it
            return [kind()]
    return []


def interval(age: float, longest: float = LONGEST) -> float:
    """Seconds until the next sample of a run that has lasted ``age`` seconds.

    The environment variable MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL sets ``longest``.
    """
    return min(longest, max(SHORTEST, age / SAMPLES_PER_DOUBLING))
