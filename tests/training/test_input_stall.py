"""The warning of a run whose GPU waits for images."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trainer.training import Counters, InputStall, read_counters, verdict

IDLE = Counters(0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
MINUTE = 60.0


def after_a_minute(
    *, cpu: float = 0.2, reads: float = 10.0, megabytes: float = 1.0, busy: float = 0.1, disk: bool = True
) -> Counters:
    """Counters of a minute at these shares and rates per second, on 4 processors."""
    counted = (MINUTE * reads, MINUTE * megabytes, MINUTE * busy) if disk else None
    return Counters(MINUTE, 4 * MINUTE * cpu, 4 * MINUTE, counted)


@pytest.mark.parametrize(
    ("counters", "binds", "cure", "on_gpu"),
    [
        (
            after_a_minute(busy=0.97, megabytes=124, reads=1100),
            "the disk's throughput binds",
            "--shorter-side 352",
            False,
        ),
        (after_a_minute(busy=0.97, megabytes=60, reads=2990), "the disk's operations bind", "IOPS", False),
        (after_a_minute(cpu=0.98, megabytes=60), "the processors bind", "more vCPUs", False),
        (after_a_minute(cpu=0.98, disk=False), "the processors bind", "--shorter-side 352", False),
        (after_a_minute(cpu=0.3), "neither disk nor processors bind", "--profile", False),
        (after_a_minute(cpu=0.3), "neither disk nor processors bind", "--decoder cpu", True),
    ],
)
def test_what_binds_is_said_with_what_to_do(counters: Counters, binds: str, cure: str, on_gpu: bool) -> None:
    said = verdict(IDLE, counters, on_gpu)

    assert said.startswith(binds)
    assert cure in said


def test_it_is_said_once_and_only_if_the_wait_lasts(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter(range(100))
    input_stall = InputStall(
        Path(), on_gpu=False, counters=lambda _: Counters(next(clock), 0.0, 1.0 * next(clock), None)
    )
    for share in (0.9, 0.2, 0.3, 0.01, 0.2, 0.2):
        input_stall.update(share)
    assert caplog.messages == []

    for share in (0.07, 0.5):
        input_stall.update(share)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("7% of the time the GPU waits for images: neither disk")


def test_the_counters_are_this_machines(tmp_path: Path) -> None:
    before = read_counters(tmp_path)
    end = time.process_time() + 0.3
    (tmp_path / "file").write_bytes(os.urandom(1000))
    while time.process_time() < end:
        pass
    after = read_counters(tmp_path)

    assert 0.2 < after.cpu_busy - before.cpu_busy < after.cpu_total - before.cpu_total + 0.05  # ticks
    assert after.seconds > before.seconds


@pytest.fixture
def fake_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a kernel's counters: two disks, and 10 s of processors' time at 100 ticks a second."""
    (tmp_path / "stat").write_text("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1\n")
    (tmp_path / "diskstats").write_text(
        "259 0 other 1 1 1 1 1 1 1 1 1 1 1\n259 1 data-disk 120 5 2000 40 9 9 9 9 0 7000 99\n"
    )
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    return tmp_path


def test_the_disk_is_the_one_that_holds_the_data(fake_kernel: Path) -> None:
    device = fake_kernel.stat().st_dev
    disk = fake_kernel / "devices/pci0/data-disk"
    disk.mkdir(parents=True)
    link = fake_kernel / f"dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(disk)
    counters = read_counters(fake_kernel, sysfs=fake_kernel)

    ticks = os.sysconf("SC_CLK_TCK")
    assert counters.disk == (120.0, 2000 * 512 / 1e6, 7.0)
    assert counters.cpu_busy == 150 / ticks
    assert counters.cpu_total == 1000 / ticks


def test_data_on_a_network_volume_have_no_disk(fake_kernel: Path) -> None:
    assert read_counters(fake_kernel, sysfs=fake_kernel).disk is None
