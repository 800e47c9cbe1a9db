"""How three programs are told to train the same, and what they say of it. Flags alone: nobody's code is changed."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainer import metrics
from trainer.preprocess import MEAN, STD
from trainer.tracking import read_journal

VAL_CROP = 0.8  # of the shorter side; timm rounds down what it divides by it, which is exact with this one


@dataclass(frozen=True)
class Settings:
    """What all programs train, alike.

    Learning rates fall in steps without warm-up, because torchvision's script sets them by the epoch only.
    """

    photos: str  # name of the set
    train: int  # pictures; a multiple of the batch: torchvision's script keeps a last partial batch, others do not
    val: int  # pictures, at most
    size: int  # pixels, of training crops and of the centre crop
    epochs: int
    lower_after: int  # epochs; each time the learning rate becomes a tenth
    batch: int = 32
    lr: float = 0.02
    model: str = "resnet18"
    momentum: float = 0.9
    weight_decay: float = 1e-3  # of weights; none of norms and biases
    smoothing: float = 0.1

    @property
    def val_resize(self) -> int:
        """Shorter side of a validation image before its centre is cut out, in pixels."""
        return round(self.size / VAL_CROP)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training pictures."""
        return self.train // self.batch


class Columns(NamedTuple):
    """What a program says of a training, a number for each epoch."""

    lr: list[float]
    train_loss: list[float]  # mean over the epoch, nats, with label smoothing
    val_top1: list[float]  # share in 0..1, after the epoch
    val_loss: list[float] | None  # nats, without label smoothing; None: the program measures something else


class Paths(NamedTuple):
    """Where a training finds and puts things."""

    data: Path  # a folder with train/CLASS and val/CLASS, prepared for `trainer train`
    work: Path  # of this training alone
    code: Path  # the clone of the program


@dataclass(frozen=True)
class Program:
    """A program that trains."""

    command: Callable[[Settings, int, Paths], list[str]]  # from settings, seed and paths
    said: Callable[[Settings, Path, str], Columns]  # from settings, its folder and what it printed
    imports_from: str = ""  # a folder in its clone


def _trainer(settings: Settings, seed: int, paths: Paths) -> list[str]:
    lowered = range(settings.lower_after, settings.epochs, settings.lower_after)
    recipe = {
        "registered_model_name": "learning",
        "model": settings.model,
        "epochs": settings.epochs,
        "global_batch": settings.batch,
        "precision": "fp32",
        "zero_init_residual": False,  # torchvision's script has no flag for it
        "label_smoothing": settings.smoothing,
        "seed": seed,
        "log_every": settings.steps_per_epoch,
        "preprocess": {
            "train_size": settings.size,
            "val_resize": settings.val_resize,
            "val_size": settings.size,
        },
        "optimizer": {
            "base_lr": settings.lr * 256 / settings.batch,
            "momentum": settings.momentum,
            "weight_decay": settings.weight_decay,
        },
        "schedule": {
            "name": "step",
            "warmup_epochs": 0,
            "milestones": [epoch / settings.epochs for epoch in lowered],
        },
    }
    file = paths.work / "learning.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    flags = {
        "data": paths.data,
        "runs": paths.work / "runs",
        "device": "cpu",
        "batch-per-gpu": settings.batch,
        "compile": "off",
        "decoder": "cpu",
    }
    return [
        sys.executable,
        "-m",
        "trainer",
        "train",
        str(file),
        "--no-report",
        "--no-export",
        *_as_options(flags),
    ]


def _trainer_said(settings: Settings, work: Path, log: str) -> Columns:
    (journal,) = work.glob("runs/*/journal.jsonl")
    points = read_journal(journal.parent).points
    ends = [settings.steps_per_epoch * (epoch + 1) for epoch in range(settings.epochs)]

    def column(key: str) -> list[float]:
        values = {point.step: point.value for point in points if point.key == key}
        return [values[step] for step in ends if step in values]

    return Columns(
        column(metrics.LR), column(metrics.TRAIN_LOSS), column(metrics.VAL_TOP1), column(metrics.VAL_LOSS)
    )


def _timm(settings: Settings, seed: int, paths: Paths) -> list[str]:
    flags = {
        "data-dir": paths.data,
        "train-split": "train",
        "val-split": "val",
        "model": settings.model,
        "model-kwargs": "zero_init_last=False",
        "num-classes": len(list((paths.data / "train").iterdir())),
        "img-size": settings.size,
        "crop-pct": VAL_CROP,
        "mean": MEAN,
        "std": STD,
        "interpolation": "bilinear",
        "train-interpolation": "bilinear",  # else bicubic half of the time
        "color-jitter": 0,  # else 0.4
        "batch-size": settings.batch,
        "epochs": settings.epochs,
        "opt": "momentum",  # its sgd is Nesterov's
        "momentum": settings.momentum,
        "weight-decay": settings.weight_decay,
        "lr": settings.lr,
        "sched": "step",
        "decay-epochs": settings.lower_after,
        "decay-rate": 0.1,
        "warmup-epochs": 0,
        "smoothing": settings.smoothing,
        "seed": seed,
        "device": "cpu",
        "workers": 1,
        "output": paths.work,
        "experiment": "timm",
        "checkpoint-hist": 1,
    }
    return [sys.executable, str(paths.code / "train.py"), "--no-prefetcher", *_as_options(flags)]


def _timm_said(settings: Settings, work: Path, log: str) -> Columns:
    with (work / "timm" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))

    def column(key: str) -> list[float]:
        return [float(row[key]) for row in rows]

    return Columns(
        column("lr"), column("train_loss"), [top1 / 100 for top1 in column("eval_top1")], column("eval_loss")
    )


# The script has no flag for a seed: by itself, each of its trainings is the same.
SEEDED = (
    "import runpy, sys, torch; torch.manual_seed(int(sys.argv[1])); sys.argv = sys.argv[2:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
REFERENCE = "references/classification"


def _torchvision(settings: Settings, seed: int, paths: Paths) -> list[str]:
    flags = {
        "data-path": paths.data,
        "model": settings.model,
        "train-crop-size": settings.size,
        "val-resize-size": settings.val_resize,
        "val-crop-size": settings.size,
        "batch-size": settings.batch,
        "epochs": settings.epochs,
        "lr": settings.lr,
        "momentum": settings.momentum,
        "weight-decay": settings.weight_decay,
        "norm-weight-decay": 0,
        "bias-weight-decay": 0,
        "lr-scheduler": "steplr",
        "lr-step-size": settings.lower_after,
        "lr-gamma": 0.1,
        "label-smoothing": settings.smoothing,
        "device": "cpu",
        "workers": 1,
        "print-freq": 1,
        "output-dir": "",  # no checkpoints
    }
    script = str(paths.code / REFERENCE / "train.py")
    return [sys.executable, "-W", "ignore", "-c", SEEDED, str(seed), script, *_as_options(flags)]


def _torchvision_said(settings: Settings, work: Path, log: str) -> Columns:
    last = settings.steps_per_epoch - 1  # of an epoch's batches; in brackets the mean up to it
    ends = re.findall(rf"^Epoch: \[\d+\] +\[ *{last}/.* lr: (\S+) .* loss: \S+ \((\S+)\)", log, re.MULTILINE)
    accuracies = re.findall(r"^Test:  Acc@1 (\S+)", log, re.MULTILINE)
    # Its validation loss is that of training, with label smoothing.
    return Columns(
        [float(lr) for lr, _ in ends],
        [float(loss) for _, loss in ends],
        [float(top1) / 100 for top1 in accuracies],
        None,
    )


def _as_options(flags: Mapping[str, object]) -> list[str]:
    pairs = (
        [f"--{name}", *(value if isinstance(value, tuple) else [value])] for name, value in flags.items()
    )
    return [str(word) for pair in pairs for word in pair]


PROGRAMS = {
    "trainer": Program(_trainer, _trainer_said),
    "timm": Program(_timm, _timm_said),
    "torchvision": Program(_torchvision, _torchvision_said, imports_from=REFERENCE),
}
