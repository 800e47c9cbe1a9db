"""A machine is lost with its disk, again and again: the run goes on elsewhere, and ends as one that never was broken.

MIRROR_KILLS=20 loses as many machines as that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks._s3_proxy import Proxy, in_front_of
from tests.dataset.conftest import Bucket
from tests.mirror.trainee import train_mirrored
from tests.training.test_kills import data, learned  # noqa: F401
from trainer.checkpoint import list_checkpoints
from trainer.mirror import open_store
from trainer.mirror._index import INDEX

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MIRROR_KILLS", "4"))
EVERY = 2.0  # seconds that the mirror may be behind
SLACK = 4.0  # seconds that a busy machine may take to begin what is due
EPOCHS = 20 * KILLS
PAUSE = 0.03  # seconds of each step, at least


def lose(process: Any) -> None:
    """Kill a trainer and all its children at once, as a machine does that is switched off."""
    parent = psutil.Process(process.pid)
    for one in (*parent.children(recursive=True), parent):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.join()


def until(condition: Any, process: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.exitcode is None, "the run ended too early"
        assert time.monotonic() < end
        time.sleep(0.01)


def run_of(runs: Path) -> Path:
    (run,) = runs.glob("digits-*")
    return run


def lost_seconds(endpoint: str, bucket: Bucket, runs: Path, at: float, first: float) -> float:
    """Seconds of training that are not in the mirror."""
    name = run_of(runs).name
    with suppress(bucket.client.exceptions.NoSuchKey):
        answer = bucket.client.get_object(Bucket=bucket.name, Key=f"runs/{name}/{INDEX}")
        index = json.loads(answer["Body"].read())
        if index["step"] >= 0:
            return at - max(index["saved"], first)
    return at - first


@pytest.mark.timeout(900)
def test_a_run_whose_machine_is_lost_again_and_again_ends_as_if_it_had_not_been(
    processes: Any,
    data: Path,  # noqa: F811
    tmp_path: Path,
    bucket: Bucket,
    s3_endpoint: str,
) -> None:
    which = random.Random(20)
    environment = {key: os.environ[key] for key in os.environ if key.startswith("AWS_")}
    behind: list[float] = []
    uploading = 0

    def start(runs: Path, proxy: Proxy | None) -> Any:
        url = f"s3://{bucket.name}/runs" if proxy else None
        here = {**environment, **({"AWS_ENDPOINT_URL": proxy.url} if proxy else {})}
        process = processes.Process(
            target=train_mirrored, args=(data, runs, url, EVERY, EPOCHS, PAUSE if proxy else 0.0, here)
        )
        process.start()
        return process

    def trains(runs: Path) -> bool:
        return any(runs.glob("digits-*/checkpoints/step-*.pt"))

    with in_front_of(s3_endpoint) as proxy:
        proxy.slow = 0.03
        for number in range(KILLS):
            runs = tmp_path / f"machine-{number}"
            process = start(runs, proxy)
            until(lambda: trains(runs), process)  # noqa: B023
            first = time.time()
            time.sleep(which.uniform(0, 2.5))
            if number % 2:
                until(lambda: proxy.uploading, process)
                time.sleep(which.uniform(0, 0.03))
            uploading += proxy.uploading > 0
            at = time.time()
            lose(process)
            behind.append(lost_seconds(s3_endpoint, bucket, runs, at, first))
            shutil.rmtree(runs)
        last = tmp_path / "last"
        process = start(last, proxy)
        process.join(300)
        assert process.exitcode == 0
    (unbroken := tmp_path / "unbroken").mkdir()
    process = start(unbroken, None)
    process.join(300)
    assert process.exitcode == 0

    print(
        f"{KILLS} machines lost, {uploading} in mid-upload; behind: {max(behind):.2f} s at most of {EVERY} s"
    )
    assert max(behind) <= EVERY + SLACK
    assert uploading
    ours, expected = ([list_checkpoints(run_of(runs) / "checkpoints")[0]] for runs in (last, unbroken))
    torch.testing.assert_close(load(ours[0]), load(expected[0]), rtol=0, atol=0)
    assert learned(run_of(last)) == learned(run_of(unbroken))

    # What is left in the mirror is what its index names, and it is the end of the run.
    store = open_store(f"s3://{bucket.name}/runs", run_of(last).name)
    index = json.loads(store.read(INDEX).data)
    assert sorted(one["object"] for one in index["files"]) == store.names("files/")
    assert index["step"] == 3 * EPOCHS
    assert index["generation"] == KILLS + 1


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)["states"]
