"""What a run says that waits for its images."""

import os
import time
from pathlib import Path

import pytest

from trainer.training import Counters, InputStall, read_counters, verdict

IDLE = Counters(0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
MINUTE = 60.0


def after_a_minute(*, cpu=0.2, reads=10.0, megabytes=1.0, busy=0.1, disk=True):
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
def test_what_binds_is_told_with_what_to_do(counters, binds, cure, on_gpu):
    said = verdict(IDLE, counters, on_gpu)

    assert said.startswith(binds)
    assert cure in said


def test_it_is_told_once_and_only_if_the_wait_lasts():
    told, clock = [], iter(range(100))
    input_stall = InputStall(
        Path(),
        on_gpu=False,
        tell=told.append,
        counters=lambda _: Counters(next(clock), 0.0, 1.0 * next(clock), None),
    )
    for share in (0.9, 0.2, 0.3, 0.01, 0.2, 0.2):
        input_stall.look(share)
    assert told == []

    for share in (0.07, 0.5):
        input_stall.look(share)
    assert len(told) == 1
    assert told[0].startswith("7% of the time the GPU waits for images: neither disk")


def test_the_counters_are_this_machines(tmp_path):
    before = read_counters(tmp_path)
    end = time.process_time() + 0.3
    (tmp_path / "file").write_bytes(os.urandom(1000))
    while time.process_time() < end:
        pass
    after = read_counters(tmp_path)

    assert 0.2 < after.cpu_busy - before.cpu_busy < after.cpu_total - before.cpu_total + 0.05  # ticks
    assert after.seconds > before.seconds


def test_the_disk_is_the_one_that_the_data_lie_on(tmp_path):
    device = tmp_path.stat().st_dev
    mine = f"{os.major(device)} {os.minor(device)} nvme1n1 120 5 2000 40 9 9 9 9 0 7000 99"
    (tmp_path / "stat").write_text("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1\n")
    (tmp_path / "diskstats").write_text(f" 999 1 other 1 1 1 1 1 1 1 1 1 1 1\n {mine}\n")
    counters = read_counters(tmp_path, tmp_path)

    ticks = os.sysconf("SC_CLK_TCK")
    assert counters.disk == (120.0, 2000 * 512 / 1e6, 7.0)
    assert counters.cpu_busy == 150 / ticks
    assert counters.cpu_total == 1000 / ticks
