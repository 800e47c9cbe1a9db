"""The sections of a recipe, and how a machine executes one: frozen, checked dataclasses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)

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
Range = tuple[Positive, Positive]
Augment = Literal["none", "randaugment", "timm_randaugment", "trivialaugment"]
RandomOps = Annotated[int, Field(ge=1, le=16)]
Magnitude = Annotated[int, Field(ge=0, le=30)]
ColorJitter = tuple[NotNegative, NotNegative, NotNegative, Hue]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Preprocess:
    """How a JPEG becomes the network's input."""

    train_size: Pixels = 224  # pixels; side of a training crop after resizing …
    min_res: Pixels | None = None  # … and at the start of the run, for progressive resizing
    ramp: tuple[Share, Share] = (0.4, 0.8)  # shares of the run between which the crops grow …
    res_step: Pixels = 32  # … in multiples of so many pixels
    val_resize: Pixels = 256  # pixels; shorter side before the centre crop
    val_size: Pixels = 224  # pixels; side of the centre crop
    crop_area: Range = (0.08, 1.0)  # share of the image a crop covers
    crop_ratio: Range = (3 / 4, 4 / 3)  # width / height of a crop
    flip: bool = True  # mirror half of the training images
    augment: Augment = "none"
    randaugment_ops: RandomOps = 2  # one after the other
    randaugment_magnitude: Magnitude = 9  # of 30; of 10 in timm's
    randaugment_std: NotNegative = 0.5  # timm's: standard deviation of the magnitude
    randaugment_increasing: bool = True  # timm's: a larger magnitude is a stronger change in all operations
    # brightness, contrast, saturation, hue, as torchvision's ColorJitter
    color_jitter: ColorJitter = (0, 0, 0, 0)
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
        if self.augment == "timm_randaugment" and self.randaugment_magnitude > 10:
            raise ValueError("preprocess.randaugment_magnitude must not exceed 10 in timm_randaugment")
        if self.val_size > self.val_resize:
            raise ValueError("val_size must not exceed val_resize, the crop would leave the image")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Optimizer:
    """What moves the weights, its learning rate scaled linearly with the batch (Goyal et al. 2017)."""

    name: Literal["sgd", "adamw", "lamb", "sgdw"] = "sgd"
    base_lr: Positive = 0.1  # peak learning rate for a global batch of 256; scaled linearly for others
    momentum: Fraction = 0.9  # adamw, lamb: the first of two betas
    nesterov: bool = False  # sgd, sgdw
    # adamw: decoupled, times the learning rate; lamb: part of the step; sgdw: decoupled, its share of the peak rate
    weight_decay: NotNegative = 1e-4
    decay_norm_and_bias: bool = False  # BatchNorm parameters and biases are left alone by default
    clip_norm: NotNegative = 0.0  # largest norm of the gradient of all weights together; 0: no clipping

    def __post_init__(self) -> None:
        if self.nesterov and self.name in ("sgd", "sgdw") and not self.momentum:
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
    momentum_range: tuple[Fraction, Fraction] | None = None  # onecycle: at the peak, and at both ends

    def __post_init__(self) -> None:
        if self.momentum_range and self.name != "onecycle":
            raise ValueError("schedule.momentum_range is for schedule.name=onecycle; use optimizer.momentum")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("schedule.milestones must be growing shares of the run, e.g. [0.333, 0.667]")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Execution:
    """How one machine runs a recipe. Not part of a run's identity: a run may go on with another."""

    batch_per_gpu: Count | None = None  # images that fit at a time; the rest of a GPU's share is accumulated
    compile: CompileMode = "off"
    decoder: Decoder | None = None  # None: the GPU where there is one
