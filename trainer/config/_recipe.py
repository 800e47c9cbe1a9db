"""One way to train one model, and what follows from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from trainer import names
from trainer.config._phase import Phase, in_force
from trainer.config._settings import (
    CHECKED,
    Count,
    Fraction,
    NotNegative,
    Optimizer,
    Preprocess,
    Schedule,
    Seed,
    Share,
)
from trainer.errors import ConfigError

WORDS = {
    "name",
    "description",
    "bar",
    "classes",
    "promote",
}  # of a recipe; nothing is trained otherwise for them


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Recipe:
    """One way to train one model. The same recipe runs on 1 GPU or 8."""

    name: str = "unnamed"  # the file's name; not a key of the file
    description: str = ""  # one line, for `trainer recipes`
    bar: Annotated[float, Field(gt=0, lt=1)] | None = None  # top-1 on ImageNet that the recipe is for
    classes: Count | None = None  # that its data set must have; None: any number
    registered_model_name: Annotated[str, AfterValidator(names.model_name)]  # in MLflow's model registry
    experiment_name: Annotated[str, AfterValidator(names.experiment_name)] | None = None  # None: the model's
    promote: Literal["manual", "better"] = (
        "manual"  # better: the alias champion goes to a better version by itself
    )
    # a name of torchvision's, also with _blurpool behind it, or package.module:Name
    model: Annotated[str, Field(pattern=r"^\w+$|^[\w.]+:\w+$")] = "resnet50"
    epochs: Count = 90
    global_batch: Count = 1024  # images per optimizer step, all processes together
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # what the device lacks, falls back
    zero_init_residual: bool = True  # each block starts as identity: its last BatchNorm's gamma is 0
    sync_batch_norm: bool = False  # one set of statistics over all GPUs; the host waits at each layer
    stochastic_depth: Fraction = 0.0  # of the last residual block that is skipped; less in those before it
    repeated_augmentation: Count = 1  # crops of an image in a global batch; an epoch has 1/n of the images
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    bce_sum: bool = True  # over the classes; else their mean
    bce_target_threshold: Share | None = (
        None  # targets above it become 1, others 0; None: they stay as they are
    )
    label_smoothing: Fraction = 0.0
    mixup: NotNegative = 0.0  # alpha of the Beta distribution; 0: none. With both, one of the two is drawn
    cutmix: NotNegative = 0.0  # likewise
    ema_decay: Fraction = 0.0  # of the moving average of the weights, which then is the model; 0: none
    ema_steps: Count = 1  # optimizer steps between its updates
    seed: Seed = 0
    log_every: Count = 50  # steps; the host waits for the GPU only this often
    preprocess: Preprocess = Preprocess()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    phases: tuple[Phase, ...] = ()  # other values for some settings, from shares of the run on

    def __post_init__(self) -> None:
        if self.schedule.momentum_range and self.optimizer.name not in ("sgd", "sgdw"):
            raise ValueError("schedule.momentum_range is for optimizer.name=sgd or sgdw")
        if self.schedule.name != "onecycle" and self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} must be less than epochs={self.epochs}"
            )
        if self.phases:
            assert self.in_force  # which checks them

    @property
    def peak_lr(self) -> float:
        """Highest learning rate of the run: linear scaling rule, arXiv:1706.02677 section 2.1."""
        return self.optimizer.base_lr * self.global_batch / 256

    @cached_property
    def in_force(self) -> dict[int, Recipe]:
        """What is trained by from each epoch (0-based) on at which a setting changes: recipes without phases."""
        return in_force(self) if self.phases else {0: self}

    def at(self, epoch: int) -> Recipe:
        """The recipe as it is in force in this epoch (0-based), with the settings of the phase; it has no phases.

        The same object for all epochs of a phase; the last phase does not end.
        """
        return self.in_force[self.begin_of_phase(epoch)]

    def begin_of_phase(self, epoch: int) -> int:
        """The first epoch of the phase that this one is in; 0 before all of them."""
        return max(begin for begin in self.in_force if begin <= epoch)

    def phases_fit(self, epochs: int) -> bool:
        """Whether in a run of so many epochs each phase would begin with an epoch of its own, as it has to."""
        begins = [phase.first_epoch(epochs) for phase in self.phases]
        return len(set(begins)) == len(begins) and all(begin < epochs for begin in begins)

    @property
    def uses_ema(self) -> bool:
        """Whether weights are averaged in any part of the run."""
        return any(part.ema_decay for part in self.in_force.values())

    @property
    def experiment(self) -> str:
        """The MLflow experiment that runs of this recipe belong to."""
        return self.experiment_name or self.registered_model_name

    def accumulation_steps(self, processes: int, batch_per_gpu: int | None) -> int:
        """Micro-batches per optimizer step on each of `processes` processes: the fewest that fit.

        Args:
            processes: that share the global batch.
            batch_per_gpu: images that fit at a time; None: as many as there are.

        Raises: ConfigError if the global batch cannot be shared evenly.
        """
        if self.global_batch % processes:
            raise ConfigError(
                f"global_batch={self.global_batch} cannot be shared evenly by {processes} processes; use "
                f"--set global_batch={-(-self.global_batch // processes) * processes} or another --nproc-per-node"
            )
        share = self.global_batch // processes
        fewest = -(-share // (batch_per_gpu or share))
        return next(steps for steps in range(fewest, share + 1) if share % steps == 0)

    def micro_batch(self, processes: int, batch_per_gpu: int | None) -> int:
        """Images that each of `processes` processes trains at a time; see `accumulation_steps`."""
        return self.global_batch // (processes * self.accumulation_steps(processes, batch_per_gpu))

    def steps_per_epoch(self, images: int) -> int:
        """Optimizer steps in one pass over `images`; the last partial batch is left out.

        Raises: ConfigError if not even one batch fits.
        """
        if images < self.global_batch:
            raise ConfigError(
                f"global_batch={self.global_batch} is larger than the {images} training images; "
                f"use --set global_batch={images} or less"
            )
        return images // self.global_batch

    def train_size(self, epoch: int) -> int:
        """Side of a training crop in pixels in this epoch (0-based).

        Source: github.com/libffcv/ffcv-imagenet, train_imagenet.py, `get_resolution`; Howard 2018 (DAWNBench).
        """
        crops = self.at(epoch).preprocess
        first, last = crops.min_res or crops.train_size, crops.train_size
        begin, end = (share * self.epochs for share in crops.ramp)
        if epoch <= begin:
            return first
        if epoch >= end:
            return last
        between = first + (last - first) * (epoch - begin) / (end - begin)
        return min(last, max(first, round(between / crops.res_step) * crops.res_step))

    @property
    def full_res(self) -> int:
        """Side of the run's largest training crops in pixels."""
        return max(part.preprocess.train_size for part in self.in_force.values())

    def at_full_res(self) -> Recipe:
        """The recipe with the largest crops from the start and no phase: what is measured must hold to the end."""
        crops = dataclasses.replace(self.preprocess, train_size=self.full_res, min_res=None)
        return dataclasses.replace(self, preprocess=crops, phases=())

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain nested data, as in the recipe file."""
        return {**dataclasses.asdict(self), "phases": tuple(phase.as_dict() for phase in self.phases)}

    def describe_phases(self) -> dict[int, str]:
        """Each phase in words, which count epochs from 1 on as the log does, by its first epoch (0-based)."""
        begins = list(self.in_force)[1:]
        phases = zip(begins, self.phases, strict=True)
        return {begin: f"from epoch {begin + 1} on: {phase.describe()}" for begin, phase in phases}

    def flat(self) -> dict[str, Any]:
        """All settings by dotted key, as `--set` takes them."""
        return dict(_flatten(self.as_dict()))

    def digest(self) -> str:
        """SHA-256 of all settings that differ from the defaults; a run's folder is named by its first digits.

        A later program with more settings finds the same folder. Whether what it finds there is the same run,
        `differences` says.
        """
        defaults = Recipe(registered_model_name="unnamed").flat()
        settings = {
            key: value for key, value in self.flat().items() if key not in WORDS and value != defaults[key]
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def differences(self, stored: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Settings that are not as in `stored`, another recipe's `as_dict()`: by dotted key, its value and ours.

        A setting that an earlier program did not know counts as its default; WORDS do not count.
        """
        return differing_settings(dict(_flatten(stored)), self.flat())


def differing_settings(*flat: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Settings that are not the same in all of these recipes: by dotted key, the value in each.

    A setting that an earlier program did not know counts as its default; WORDS do not count.

    Args:
        flat: each recipe's settings by dotted key, as of `Recipe.flat` or stored as JSON.
    """
    defaults = Recipe(registered_model_name="unnamed").flat()
    plain = [json.loads(json.dumps(defaults | dict(one))) for one in flat]  # tuples become lists
    keys = sorted({key for one in plain for key in one} - WORDS)
    values = {key: tuple(one.get(key) for one in plain) for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
