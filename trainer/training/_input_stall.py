"""The bottleneck of a run whose GPU waits for images, from the machine's own counters."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer.instances import GP3_IOPS, GP3_MB

SHARE = 0.05  # of the time: waiting for less is not worth a word
INTERVALS = 3  # log intervals in a row that show it; the first one, in which queues fill, does not count
BUSY = 0.8  # share of the time in which a disk or all processors work: then they are what binds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counters:
    """What the kernel has counted since the machine started."""

    seconds: float
    cpu_busy: float  # seconds of all processors together
    cpu_total: float
    disk: tuple[float, float, float] | None  # reads, MB read, seconds with work; None: not on a local disk


class InputStall:
    """Reads how long each log interval waited for images, and warns once, naming the bottleneck."""

    def __init__(
        self, data: Path, *, on_gpu: bool, counters: Callable[[Path], Counters] | None = None
    ) -> None:
        """Start watching.

        Args:
            data: folder that images are read from.
            on_gpu: whether the GPU decodes them, beside training.
            counters: function that reads the counters; None: `read_counters`.
        """
        self._data, self._on_gpu = data, on_gpu
        self._counters = counters or read_counters
        self._before: Counters | None = None
        self._late = 0
        self._warned = False

    def update(self, data_wait_share: float) -> None:
        """Take in the share of a log interval that was spent waiting for images."""
        if self._warned:
            return
        now, before = self._counters(self._data), self._before
        if self._late == 0 or before is None:
            self._before = now
        self._late = self._late + 1 if before and data_wait_share > SHARE else 0
        if before and self._late == INTERVALS:
            self._warned = True
            logger.warning(
                "%.0f%% of the time the GPU waits for images: %s",
                100 * data_wait_share,
                verdict(before, now, self._on_gpu),
            )


def verdict(before: Counters, after: Counters, on_gpu: bool) -> str:
    """The bottleneck between two counts, and its cure; `on_gpu`: the GPU decodes."""
    seconds = after.seconds - before.seconds
    cpu = (after.cpu_busy - before.cpu_busy) / max(1e-9, after.cpu_total - before.cpu_total)
    figures = f"processors {cpu:.0%} busy"
    if before.disk and after.disk:
        reads, megabytes, busy = (
            (later - earlier) / seconds for later, earlier in zip(after.disk, before.disk, strict=True)
        )
        figures += f", disk {min(1, busy):.0%} busy with {megabytes:,.0f} MB and {reads:,.0f} reads a second"
        if busy >= BUSY and megabytes / GP3_MB >= reads / GP3_IOPS:
            return (
                f"the disk's throughput binds ({figures}); order more for the volume (gp3 has {GP3_MB:.0f} MB/s "
                "by default), read from the instance's own NVMe, or store images smaller with "
                "`trainer prepare --shorter-side 352`"
            )
        if busy >= BUSY:
            return (
                f"the disk's operations bind ({figures}); order more IOPS for the volume (gp3 has "
                f"{GP3_IOPS:,.0f} by default), or read from the instance's own NVMe"
            )
    if cpu >= BUSY:
        return (
            f"the processors bind, decoding ({figures}); store images smaller with `trainer prepare "
            "--shorter-side 352`, or take an instance with more vCPUs for each GPU"
        )
    if on_gpu:
        return (
            f"neither disk nor processors bind ({figures}), so decoding on the GPU itself, beside training, does, or a "
            "slow network volume; try --decoder cpu"
        )
    return (
        f"neither disk nor processors bind ({figures}), so this program itself or a slow network volume does; "
        "look at a trace of `trainer bench train --profile`"
    )


def read_counters(data: Path, sysfs: Path = Path("/sys")) -> Counters:
    """The counters of this machine, and of the disk that holds `data`."""
    cpu = psutil.cpu_times()
    busy = cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq + cpu.steal
    name = _disk_name(data, sysfs)
    disk = (psutil.disk_io_counters(perdisk=True) or {}).get(name) if name else None
    return Counters(
        time.monotonic(),
        busy,
        busy + cpu.idle + cpu.iowait,
        (disk.read_count, disk.read_bytes / 1e6, disk.busy_time / 1000) if disk else None,
    )


def _disk_name(data: Path, sysfs: Path) -> str | None:
    """The kernel's name of the block device that holds `data`; None without one, as on a network volume."""
    device = data.stat().st_dev
    link = sysfs / f"dev/block/{os.major(device)}:{os.minor(device)}"
    return link.resolve().name if link.exists() else None
