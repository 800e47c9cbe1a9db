"""Options of the use cases, each with the default that the command line shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.config import CompileMode, Decoder, DeviceChoice

Weights = Literal["raw", "ema"]


@dataclass(frozen=True, kw_only=True)
class TrackedOptions:
    """What every tracked run is started with."""

    runs: Path = Path("runs")  # folder of all runs, and of MLflow's SQLite store where no server is named
    name: str | None = None  # of the run; None: the recipe's
    device: DeviceChoice = "auto"
    batch_per_gpu: int | None = None  # images at a time; None: measured on a GPU
    compile: CompileMode | None = None  # None: measured on a GPU
    decoder: Decoder | None = None  # None: measured on a GPU
    offline: bool = False  # start although MLflow does not answer
    partial: bool = False  # train although the data set is not all of a published one


@dataclass(frozen=True, kw_only=True)
class RunOptions(TrackedOptions):
    """What a run of a recipe is started with."""

    recipe: str  # name of a shipped recipe, or path of a YAML file
    data: Path  # folder of a prepared data set
    set: tuple[str, ...] = ()  # KEY=VALUE settings that replace the recipe's


@dataclass(frozen=True, kw_only=True)
class StartOptions(TrackedOptions):
    """How a run that trains to its end is started."""

    nproc_per_node: int | None = None  # processes on this machine; None: one a GPU, one on the CPU
    checkpoint_interval: float = 60.0  # seconds of training between two checkpoints
    max_restarts: int = 3  # of all processes after crashes without progress
    timeout: float = 600.0  # seconds after which a process that does not answer is called stuck
    price: float | None = None  # of this machine per hour, in US dollars
    instance: str | None = None  # type of AWS that this machine is; it has a price and a prediction
    max_hours: float | None = None  # of training, all starts together
    max_dollars: float | None = None  # of these hours on all machines
    until_top1: float | None = None  # accuracy, in 0..1, at which the run is done before its last epoch
    tensorboard: bool = False  # write its event file beside the journal
    no_report: bool = False  # leave out the report at the end
    no_export: bool = False  # leave out the bundle at the end
    runs_remote: str | None = (
        None  # where the run is mirrored: s3://BUCKET/PREFIX, or a disk that others share
    )
    mirror_every: float = 600.0  # seconds that the mirror may be behind
    unmirrored: bool = False  # start although the mirror cannot be used


@dataclass(frozen=True, kw_only=True)
class TrainOptions(StartOptions, RunOptions):
    """What `train_run` takes."""

    from_: str | None = None  # the model whose weights the run begins with, in any of its forms but a bundle
    weights: Weights | None = None  # of a checkpoint; None: those that are registered, EMA's where there are
    trust: bool = False  # begin with a registered version that `trainer train` has not sealed
    fit: bool = False  # train fewer epochs, as many as the budget allows

    def arguments(self) -> list[str]:
        """The arguments of `trainer train` that mean the same."""
        return _arguments(self, "recipe")


@dataclass(frozen=True, kw_only=True)
class ExtendOptions(StartOptions):
    """What `extend_run` takes."""

    folder: Path  # of the run that is extended
    epochs: int  # of the extended run, those that are done included
    cooldown: bool = False  # let the learning rate fall from where it is to zero, in a straight line
    data: Path | None = None  # folder of its data set; None: where the run had it

    def arguments(self) -> list[str]:
        """The arguments of `trainer extend` that mean the same."""
        return _arguments(self, "folder")


@dataclass(frozen=True, kw_only=True)
class FindLrOptions(RunOptions):
    """What `find_lr` takes."""

    min_lr: float = 1e-5  # learning rate of the first step, at the recipe's global batch
    max_lr: float = 10.0  # learning rate of the last step
    steps: int = 200  # at most; the test ends when the loss diverges


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What `evaluate_model` takes."""

    model: str  # in any of its forms, see `resolve_model`
    data: Path  # folder of a prepared data set
    runs: Path = Path("runs")  # folder of MLflow's SQLite store where no server is named
    device: DeviceChoice = "auto"
    nproc_per_node: int | None = None  # processes; None: one a GPU, one on the CPU
    batch_size: int = 64  # images at a time in each process
    per_class: bool = False  # count for each class as well
    partial: bool = False  # measure although the validation images are not all of a published data set's
    trust: bool = False  # take a registered version that `trainer train` has not sealed
    tta: bool = False  # average the logits of each image and of its mirror image

    def arguments(self) -> list[str]:
        """The arguments of `trainer evaluate` that mean the same."""
        return _arguments(self, "model")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What `report_run` takes."""

    folder: Path  # of the run
    out: Path | None = None  # folder of the report; None: `report` in the run folder
    against: tuple[Path, ...] = ()  # run folders and published logs (CSV) to draw beside it
    per_class: int = 0  # mistakes of each class on a page of their own
    data: Path | None = None  # folder of the data set; None: where the run had it
    evaluate: bool = False  # measure the newest checkpoint now, instead of what the end of the training left
    device: DeviceChoice = "auto"  # for that


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What `publish_model` takes."""

    model: str  # in any of its forms but a bundle, see `resolve_model`
    repo: str  # NAME or OWNER/NAME on the Hugging Face Hub
    space: str | None = None  # NAME or OWNER/NAME of a Space with its demo
    public: bool = False  # everybody may see it
    license: str | None = None  # of the weights, as the Hub calls it, such as mit
    with_photos: bool = False  # photos of the data set may be shown
    with_report: bool = False  # so may the report of its run, which has photos and paths of this machine
    runs: Path = Path("runs")  # folder of all runs, and of MLflow's SQLite store where no server is named
    trust: bool = False  # take a registered version that `trainer train` has not sealed
    dry_run: bool = False  # write folders and ask nobody
    out: Path | None = None  # where a dry run writes; None: publish/NAME

    @property
    def folder(self) -> Path:
        """Where a dry run writes."""
        return self.out or Path("publish", self.repo.rpartition("/")[2])


def _arguments(options: TrainOptions | ExtendOptions | EvaluateOptions, positional: str) -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), f"--{field.name.rstrip('_').replace('_', '-')}"
        if field.name == positional or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag)
        else:
            values = value if isinstance(value, list | tuple) else (value,)
            words += [f"{flag}={one}" for one in values]
    return [*words, "--", str(getattr(options, positional))]
