"""A process that trains for the tests that kill it: the real loop, with a small network.

It is killed in the midst of what it is to be killed in, and notes which images it used. The forkserver imports this
module once; a process is then there in no time.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.checkpoint import Checkpoints
from trainer.config import Execution, Recipe, load_recipe
from trainer.dataloader import Batch
from trainer.dataset import open_dataset
from trainer.distributed import join_world
from trainer.tracking import DatasetInfo, Journal, NullLog, RunInfo
from trainer.training import _loop
from trainer.training._step import Step

IMAGES = 24  # each of a class of its own, so that a label says which image it was
SETTINGS = [
    "model=tests.nets:Small",
    "epochs=60",
    "global_batch=8",
    "schedule.warmup_epochs=1",
    "log_every=2",
    "preprocess.train_size=32",
    "preprocess.val_size=32",
    "preprocess.val_resize=36",
    "preprocess.flip=true",
    "precision=fp32",
    "ema_decay=0.5",
]
RECIPE = load_recipe("digits", SETTINGS)
# All that changes while a run goes on: crops that grow, and phases of mixing, averaging, augmentation and size; LAMB.
CHANGING = load_recipe(
    "digits",
    [
        *SETTINGS,
        "optimizer.name=lamb",
        "optimizer.clip_norm=1",
        "mixup=0.2",
        "cutmix=1.0",
        "preprocess.min_res=24",
        "preprocess.res_step=4",
        "preprocess.ramp=[0.1,0.4]",
        "phases=[{at: 0.3, cutmix: 0, preprocess: {erasing: 0.3}},"
        "{at: 0.6, ema_decay: 0.9, label_smoothing: 0.1, preprocess: {color_jitter: [0.4, 0.4, 0.4, 0]}},"
        "{at: 0.8, mixup: 0, preprocess: {erasing: 0, train_size: 40, crop_area: [0.9, 1]}}]",
    ],
)
EXECUTION = Execution(batch_per_gpu=2)


class Death(NamedTuple):
    """When a process is killed."""

    phase: str
    often: int  # it has come to the phase by then
    seconds: float  # after that


class Phase:
    """What a process is doing, until its death."""

    def __init__(self, death: Death | None) -> None:
        self._death, self._often = death, 0

    def set(self, name: str) -> None:
        if self._death and name == self._death.phase:
            self._often += 1
            if self._often == self._death.often:
                threading.Timer(self._death.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def during(self, name: str, function: Any, afterwards: str) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.set(name)
            try:
                return function(*arguments, **options)
            finally:
                self.set(afterwards)

        return wrapped


def train_here(
    rank: int,
    size: int,
    port: int,
    data: Path,
    folder: Path,
    attempt: int,
    recipe: Recipe,
    death: Death | None,
) -> None:
    """Train as process `rank` of `size`; go on from what is in `folder`."""
    environment: dict[str, object] = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": size,
    }
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    phase = Phase(death)
    phase.set("start-up")
    used = os.open(folder / f"used-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Recorded(Step):
        """A step that notes whose images it used."""

        number = 0

        def __call__(self, batches: Iterator[Batch], lr: float, meter: Any, **options: Any) -> None:
            def noted() -> Iterator[Batch]:
                for batch in batches:
                    os.write(used, f"{attempt} {Recorded.number} {batch.labels.tolist()}\n".encode())
                    yield batch

            phase.set("step")
            super().__call__(noted(), lr, meter, **options)
            Recorded.number += 1

    class Log(NullLog):
        """No log, but the step where training goes on."""

        def truncate_after(self, step: int) -> None:
            Recorded.number = step

    class Book(Journal):
        """The journal, and the step where training goes on."""

        def truncate_after(self, step: int) -> None:
            super().truncate_after(step)
            Recorded.number = step

    loop: Any = _loop
    loop.Step = Recorded
    loop.evaluate = phase.during("validation", loop.evaluate, "epoch end")
    checkpoints: Any = Checkpoints
    checkpoints._write_checkpoint = phase.during("save", checkpoints._write_checkpoint, "step")

    dataset = open_dataset(data)
    log = Book(folder) if rank == 0 else Log()
    log.start(RunInfo(name="r", experiment="e", params={}, tags={}, dataset=DatasetInfo("d", "", "")))
    with join_world("cpu", timeout=60) as world:
        _loop.train(recipe, dataset, folder, world, log, execution=EXECUTION, checkpoint_interval=0.0001)
    log.finish("finished")
