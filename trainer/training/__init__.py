"""The loop, the step, and what steers them."""

from trainer.training._budget import Budget
from trainer.training._evaluation import (
    VAL_BATCH,
    Accuracy,
    ClassAccuracy,
    Prediction,
    evaluate,
    flip_tta,
    full_precision,
    predict,
)
from trainer.training._input_stall import Counters, InputStall, read_counters, verdict
from trainer.training._loop import Progress, train
from trainer.training._losses import make_loss
from trainer.training._lr_finder import LrPoint, Suggestion, lr_grid, range_test, suggest
from trainer.training._meter import Meter
from trainer.training._mixing import mixed
from trainer.training._optimizer import make_optimizer, parameter_groups
from trainer.training._precision import Precision, choose_precision
from trainer.training._schedule import (
    learning_rate,
    momentum,
    multi_step,
    one_cycle,
    warmup_cosine,
    warmup_linear,
)
from trainer.training._spot import SpotWatch, metadata_service
from trainer.training._step import Step, make_loader, make_model

__all__ = [
    "VAL_BATCH",
    "Accuracy",
    "Budget",
    "ClassAccuracy",
    "Counters",
    "InputStall",
    "LrPoint",
    "Meter",
    "Precision",
    "Prediction",
    "Progress",
    "SpotWatch",
    "Step",
    "Suggestion",
    "choose_precision",
    "evaluate",
    "flip_tta",
    "full_precision",
    "learning_rate",
    "lr_grid",
    "make_loader",
    "make_loss",
    "make_model",
    "make_optimizer",
    "metadata_service",
    "mixed",
    "momentum",
    "multi_step",
    "one_cycle",
    "parameter_groups",
    "predict",
    "range_test",
    "read_counters",
    "suggest",
    "train",
    "verdict",
    "warmup_cosine",
    "warmup_linear",
]
