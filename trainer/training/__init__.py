"""The loop, the step, and what steers them."""

from trainer.training._evaluation import (
    VAL_BATCH,
    Accuracy,
    ClassAccuracy,
    evaluate,
    flip_tta,
    full_precision,
)
from trainer.training._input_stall import GP3_MB, GP3_READS, Counters, InputStall, read_counters, verdict
from trainer.training._loop import Progress, train
from trainer.training._lr_finder import LrPoint, Suggestion, lr_grid, range_test, suggest
from trainer.training._mixing import mixed
from trainer.training._schedule import learning_rate, multi_step, one_cycle, warmup_cosine, warmup_linear
from trainer.training._step import (
    Meter,
    Precision,
    Step,
    choose_precision,
    make_loss,
    make_optimizer,
    parameter_groups,
)
from trainer.training._stop import SpotWatch, StopRequest, metadata_service

__all__ = [
    "GP3_MB",
    "GP3_READS",
    "VAL_BATCH",
    "Accuracy",
    "ClassAccuracy",
    "Counters",
    "InputStall",
    "LrPoint",
    "Meter",
    "Precision",
    "Progress",
    "SpotWatch",
    "Step",
    "StopRequest",
    "Suggestion",
    "choose_precision",
    "evaluate",
    "flip_tta",
    "full_precision",
    "learning_rate",
    "lr_grid",
    "make_loss",
    "make_optimizer",
    "metadata_service",
    "mixed",
    "multi_step",
    "one_cycle",
    "parameter_groups",
    "range_test",
    "read_counters",
    "suggest",
    "train",
    "verdict",
    "warmup_cosine",
    "warmup_linear",
]
