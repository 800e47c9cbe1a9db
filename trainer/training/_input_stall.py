"""What a GPU waits for when it waits for images: told once, from the machine's own counters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.05  # of the time: waiting for less is not worth a word
READINGS = 3  # in a row that show it; the first one, in which queues fill, does not count
BUSY = 0.8  # share of the time in which a disk or all processors work: then they are what binds
SECTOR = 512  # bytes, in /proc/diskstats whatever the disk's own are
# What a gp3 volume of EBS has unless more was ordered.
# Source: docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
GP3_MB, GP3_READS = 125.0, 3000.0  # per second


@dataclass(frozen=True)
class Counters:
    """What the kernel has counted up to now."""

    seconds: float
    cpu_busy: float  # seconds of all processors together
    cpu_total: float
    disk: tuple[float, float, float] | None  # reads, MB read, seconds with work; None: not on a local disk


class InputStall:
    """Looks at each reading of a run, and says once what its images wait for."""

    def __init__(
        self,
        data: Path,
        *,
        on_gpu: bool,
        tell: Callable[[str], None],
        counters: Callable[[Path], Counters] | None = None,
    ) -> None:
        """Get ready.

        Args:
            data: the folder that images are read from.
            on_gpu: whether the GPU decodes them, beside training.
            tell: takes the sentence.
            counters: asked for the counters; by default /proc is.
        """
        self._data, self._on_gpu = data, on_gpu
        self._tell, self._counters = tell, counters or read_counters
        self._before: Counters | None = None
        self._late = 0
        self._told = False

    def look(self, data_wait_share: float) -> None:
        """Take note of a reading: the share of its time that was spent waiting for images."""
        if self._told:
            return
        now, before = self._counters(self._data), self._before
        if self._late == 0 or before is None:
            self._before = now
        self._late = self._late + 1 if before and data_wait_share > SHARE else 0
        if before and self._late == READINGS:
            self._told = True
            self._tell(
                f"{data_wait_share:.0%} of the time the GPU waits for images: {verdict(before, now, self._on_gpu)}"
            )


def verdict(before: Counters, after: Counters, on_gpu: bool) -> str:
    """What binds between two countings, and what can be done; `on_gpu`: the GPU decodes."""
    seconds = after.seconds - before.seconds
    cpu = (after.cpu_busy - before.cpu_busy) / max(1e-9, after.cpu_total - before.cpu_total)
    figures = f"processors {cpu:.0%} busy"
    if before.disk and after.disk:
        reads, megabytes, busy = (
            (later - earlier) / seconds for later, earlier in zip(after.disk, before.disk, strict=True)
        )
        figures += f", disk {min(1, busy):.0%} busy with {megabytes:,.0f} MB and {reads:,.0f} reads a second"
        if busy >= BUSY and megabytes / GP3_MB >= reads / GP3_READS:
            return (
                f"the disk's throughput binds ({figures}); order more for the volume (gp3 has {GP3_MB:.0f} MB/s "
                "unless told otherwise), read from the instance's own NVMe, or store images smaller with "
                "`trainer prepare --shorter-side 352`"
            )
        if busy >= BUSY:
            return (
                f"the disk's operations bind ({figures}); order more IOPS for the volume (gp3 has "
                f"{GP3_READS:,.0f} unless told otherwise), or read from the instance's own NVMe"
            )
    if cpu >= BUSY:
        return (
            f"the processors bind, decoding ({figures}); store images smaller with `trainer prepare --shorter-side 352`, "
            "or take an instance with more vCPUs for each GPU"
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


def read_counters(data: Path, proc: Path = Path("/proc")) -> Counters:
    """The counters of this machine, and of the disk that `data` lies on. Source: proc(5), iostats.rst."""
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(number) / ticks for number in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    busy = user + nice + system + irq + softirq + steal
    device = data.stat().st_dev
    disk = None
    for line in (proc / "diskstats").read_text().splitlines():
        major, minor, _, *fields = line.split()
        if (int(major), int(minor)) == (os.major(device), os.minor(device)):
            disk = float(fields[0]), int(fields[2]) * SECTOR / 1e6, int(fields[9]) / 1000
    return Counters(time.monotonic(), busy, busy + idle + iowait, disk)
