"""A run that is mirrored, for the tests that lose its machine: real loop, real child, small network."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tests.training.trainee import SETTINGS
from trainer.distributed import join_world
from trainer.run import TrainOptions, make_plan
from trainer.run._mirrored import Mirrored
from trainer.tracking import DatasetInfo, Journal, RunInfo
from trainer.training import train

CHECKPOINTS = 0.1  # seconds between two


class Slow(Journal):
    """A journal that makes each step last."""

    pause = 0.0  # seconds

    def step_done(self, step: int) -> None:
        time.sleep(self.pause)


def train_mirrored(
    data: Path,
    runs: Path,
    url: str | None,
    every: float,
    epochs: int,
    pause: float,
    environment: dict[str, str],
) -> None:
    """Train the run in `runs`, mirrored at `url`; go on from what is there."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    options = TrainOptions(
        recipe="digits",
        set=(*SETTINGS, "classes=null", f"epochs={epochs}"),
        data=data,
        runs=runs,
        runs_remote=url,
        mirror_every=every,
        checkpoint_interval=CHECKPOINTS,
    )
    with Mirrored(options) as mirror:
        plan = make_plan(options)
        mirror.restore(plan)
        plan.folder.mkdir(parents=True, exist_ok=True)
        plan.write()
        log = Slow(plan.folder)
        log.pause = pause
        log.start(RunInfo(name="r", experiment="e", params={}, tags={}, dataset=DatasetInfo("d", "", "")))
        with join_world("cpu", timeout=60) as world:
            train(plan.recipe, plan.dataset, plan.folder, world, log, checkpoint_interval=CHECKPOINTS)
        log.finish("finished")
