"""Load of CPU, memory, disk, network and GPUs, as MLflow's own monitors read it."""

from __future__ import annotations

import time
from contextlib import suppress

from trainer.tracking._history import Point

SYSTEM = "system/"  # MLflow shows metrics of this prefix on a page of their own
INTERVAL = 10.0  # seconds between two samples


class SystemMetrics:
    """Samples of the machine's load, every 10 s.

    MLflow's SystemMetricsMonitor, the thread around these monitors, ends at the first failed request and counts its
    steps anew after it; here a sample that cannot be sent is lost and nothing else. The monitors by themselves are
    no public API of MLflow, but there is none that reads once.
    """

    def __init__(self, started: int) -> None:
        """Get the monitors ready.

        Args:
            started: start of the run, ms since 1970; a sample's step is the number of intervals since then.
        """
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(Exception):  # there is no GPU; MLflow has no narrower way to say so
            self._monitors.append(GPUMonitor())
        self._started, self._next = started, 0.0

    def due(self) -> list[Point]:
        """A sample if the last one is an interval ago; else nothing."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + INTERVAL
        now, points = int(time.time() * 1000), []
        step = max(0, now - self._started) // int(1000 * INTERVAL)
        for monitor in self._monitors:
            monitor.collect_metrics()
            points += [
                Point(SYSTEM + name, step, value, now) for name, value in monitor.aggregate_metrics().items()
            ]
            monitor.clear_metrics()
        return points
