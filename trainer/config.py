"""What a training run is: recipes as frozen, validated dataclasses.

A recipe is a YAML file that says *what* is trained; paths, addresses and devices come from the command line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from trainer import names
from trainer.errors import ConfigError
from trainer.hints import nearest, setting_hint
from trainer.recipes import parse_yaml

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)

WORDS = {"name", "description", "bar", "classes"}  # of a recipe; nothing is trained otherwise for them
# torch.compile's modes: off, "default", and "reduce-overhead", which replays CUDA graphs
CompileMode = Literal["off", "default", "cudagraphs"]
# Where JPEGs are decoded: "mixed" leaves the entropy decoding of images below a million pixels to the CPU,
# "mixed-huffman" does not.
Decoder = Literal["cpu", "mixed", "mixed-huffman"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
Count = Annotated[int, Field(ge=1, le=10**9)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # torch and NumPy take others differently, or not at all
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Hue = Annotated[float, Field(ge=0, le=0.5)]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Preprocess:
    """How a JPEG becomes the network's input."""

    train_size: Pixels = 224  # pixels; side of a training crop after resizing …
    min_res: Pixels | None = None  # … and at the start of the run, for progressive resizing
    ramp: tuple[Share, Share] = (0.4, 0.8)  # shares of the run between which the crops grow …
    res_step: Pixels = 32  # … in multiples of so many pixels
    val_resize: Pixels = 256  # pixels; shorter side before the centre crop
    val_size: Pixels = 224  # pixels; side of the centre crop
    crop_area: tuple[Positive, Positive] = (0.08, 1.0)  # share of the image a crop covers
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # width / height of a crop
    flip: bool = True  # mirror half of the training images
    augment: Literal["none", "randaugment", "trivialaugment"] = "none"
    randaugment_ops: Annotated[int, Field(ge=1, le=16)] = 2  # one after the other
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9  # of 30
    # brightness, contrast, saturation, hue, as torchvision's ColorJitter
    color_jitter: tuple[NotNegative, NotNegative, NotNegative, Hue] = (0, 0, 0, 0)
    erasing: Share = 0.0  # of the training images get a random rectangle erased

    def __post_init__(self) -> None:
        if self.min_res and self.min_res > self.train_size:
            raise ValueError("min_res must not exceed train_size, the size at the end of the run")
        if not self.ramp[0] <= self.ramp[1]:
            raise ValueError("ramp must be two growing numbers")
        if not self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError("crop_area must be two growing numbers up to 1")
        if not self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError("crop_ratio must be two growing numbers")
        if self.val_size > self.val_resize:
            raise ValueError("val_size must not exceed val_resize, the crop would leave the image")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Optimizer:
    """SGD with momentum or AdamW, the learning rate scaled linearly with the batch (Goyal et al. 2017)."""

    name: Literal["sgd", "adamw"] = "sgd"
    base_lr: Positive = 0.1  # peak learning rate for a global batch of 256; scaled linearly for others
    momentum: Fraction = 0.9  # adamw: the first of its two betas
    nesterov: bool = False  # sgd
    weight_decay: NotNegative = 1e-4  # adamw: decoupled, times the learning rate
    decay_norm_and_bias: bool = False  # BatchNorm parameters and biases are left alone by default
    clip_norm: NotNegative = 0.0  # largest norm of the gradient of all weights together; 0: no clipping

    def __post_init__(self) -> None:
        if self.nesterov and self.name == "sgd" and not self.momentum:
            raise ValueError("optimizer.nesterov=true needs an optimizer.momentum above 0, e.g. 0.9")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Schedule:
    """The learning rate over the run, after a linear warm-up; `onecycle` has its own way up."""

    name: Literal["cosine", "linear", "step", "onecycle"] = "cosine"
    warmup_epochs: NotNegative = 5  # not for onecycle
    milestones: tuple[Share, ...] = (1 / 3, 2 / 3)  # step: shares of the run at which …
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1  # … the learning rate is multiplied by this
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3  # onecycle: share of the run in which it grows …
    div_factor: Annotated[float, Field(ge=1)] = 25.0  # … from the peak divided by this …
    final_div_factor: Annotated[float, Field(ge=1)] = 1e4  # … and then falls to that divided by this

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("schedule.milestones must be growing shares of the run, e.g. [0.333, 0.667]")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Recipe:
    """One way to train one model. The same recipe runs on 1 GPU or 8."""

    name: str = "unnamed"  # the file's name; not a key of the file
    description: str = ""  # one line, for `trainer recipes`
    bar: Annotated[float, Field(gt=0, lt=1)] | None = None  # top-1 on ImageNet that the recipe is for
    classes: Count | None = None  # that its data set must have; None: any number
    registered_model_name: Annotated[str, AfterValidator(names.model_name)]  # in MLflow's model registry
    experiment_name: Annotated[str, AfterValidator(names.experiment_name)] | None = None  # None: the model's
    # a name of torchvision's, also with _blurpool behind it, or package.module:Name
    model: Annotated[str, Field(pattern=r"^\w+$|^[\w.]+:\w+$")] = "resnet50"
    epochs: Count = 90
    global_batch: Count = 1024  # images per optimizer step, all processes together
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # what the device lacks, falls back
    zero_init_residual: bool = True  # each block starts as identity: its last BatchNorm's gamma is 0
    sync_batch_norm: bool = False  # one set of statistics over all GPUs; the host waits at each layer
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
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

    def __post_init__(self) -> None:
        if self.schedule.name != "onecycle" and self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} must be less than epochs={self.epochs}"
            )

    @property
    def peak_lr(self) -> float:
        """Highest learning rate of the run: linear scaling rule, arXiv:1706.02677 section 2.1."""
        return self.optimizer.base_lr * self.global_batch / 256

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
        crops = self.preprocess
        first, last = crops.min_res or crops.train_size, crops.train_size
        begin, end = (share * self.epochs for share in crops.ramp)
        if epoch <= begin:
            return first
        if epoch >= end:
            return last
        between = first + (last - first) * (epoch - begin) / (end - begin)
        return min(last, max(first, round(between / crops.res_step) * crops.res_step))

    def at_full_res(self) -> Recipe:
        """The recipe with crops of the final size from the start: what is measured must hold to the end."""
        return dataclasses.replace(self, preprocess=dataclasses.replace(self.preprocess, min_res=None))

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain nested data, as in the recipe file."""
        return dataclasses.asdict(self)

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

    def differences(self, stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings that are not as in `stored`, another recipe's `as_dict()`: by dotted key, its value and ours.

        A setting that an earlier program did not know counts as its default; WORDS do not count.
        """
        defaults = Recipe(registered_model_name="unnamed").flat()
        both = self.flat(), defaults | dict(_flatten(stored))
        ours, theirs = (json.loads(json.dumps(settings)) for settings in both)  # tuples become lists
        keys = sorted((ours.keys() | theirs.keys()) - WORDS)
        return {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Execution:
    """How one machine runs a recipe. Not part of a run's identity: a run may go on with another."""

    batch_per_gpu: Count | None = None  # images that fit at a time; the rest of a GPU's share is accumulated
    compile: CompileMode = "off"
    decoder: Decoder | None = None  # None: the GPU where there is one


def stored_recipe(content: Mapping[str, Any]) -> Recipe:
    """The recipe that `Recipe.as_dict` has given. Raises: ConfigError if it is none of this version."""
    try:
        return TypeAdapter(Recipe).validate_python(content)
    except ValidationError as error:
        raise ConfigError(f"a stored recipe does not fit this version: {_sentence(error, ())}") from None


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("trainer.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a shipped recipe or a YAML file and apply `KEY=VALUE` overrides.

    Raises: ConfigError with the file, the key and what would be right.
    """
    settings = _read(name)
    known = [*_flatten_fields(Recipe)]
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} is not KEY=VALUE; write for example --set epochs=30")
        if key not in known:
            raise ConfigError(f"--set {key}: there is no such setting{setting_hint(key, known)}")
        _assign(
            settings,
            key.split("."),
            parse_yaml(text, f"--set {key}={text[:99]}: the value is not valid YAML; quote it"),
        )
    try:
        return TypeAdapter(Recipe).validate_python({**settings, "name": Path(name).stem})
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {_sentence(error, known)}") from None


def _read(name: str) -> dict[str, Any]:
    if name in shipped_recipes():
        text = resources.files("trainer.recipes").joinpath(f"{name}.yaml").read_text("utf-8")
    elif name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"recipe file {name} cannot be read: {reason}") from None
    else:
        raise ConfigError(
            f"there is no recipe {name!r}{nearest(name, shipped_recipes())}; "
            f"shipped are {', '.join(shipped_recipes())}, or give the path of a .yaml file"
        )
    settings = parse_yaml(text, f"recipe {name} is not YAML")
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {name} must hold KEY: VALUE lines; see docs/recipes.md for an example")
    if "name" in settings:
        raise ConfigError(f"recipe {name}: there is no setting name; a recipe is called as its file")
    return settings


def _assign(settings: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = settings.get(part)
        settings[part] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        settings = inner
    settings[path[-1]] = value


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _flatten_fields(of: Any, prefix: str = "") -> Iterable[str]:
    for field in dataclasses.fields(of):
        if dataclasses.is_dataclass(field.default):
            yield from _flatten_fields(field.default, f"{prefix}{field.name}.")
        elif prefix + field.name != "name":
            yield prefix + field.name


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 2, 100


def _sentence(error: ValidationError, known: Iterable[str]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"there is no setting {key}{setting_hint(key, known)}"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"the setting {key} is missing"
        case "value_error" if not isinstance(first["input"], str):  # of a section, which names its settings
            return str(first["ctx"]["error"])
    said = first["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
    # reprlib: a few lines of YAML may stand for gigabytes
    return f"{key} = {_SHORT.repr(first['input'])}: {said[0].lower()}{said[1:]}"
