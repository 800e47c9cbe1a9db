"""The loop, the step, and what steers them."""

from trainer.training._bottleneck import GP3_MB, GP3_READS, Bottleneck, Counters, read_counters, verdict
from trainer.training._evaluation import (
    AT_A_TIME,
    Accuracy,
    ClassAccuracy,
    evaluate,
    full_precision,
    mirrored,
)
from trainer.training._loop import Progress, train
from trainer.training._lr_finder import Suggestion, Tried, growing_rates, range_test, suggest
from trainer.training._mixing import mixed
from trainer.training._schedule import learning_rate, one_cycle, stepwise, warmup_cosine, warmup_linear
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
    "AT_A_TIME",
    "GP3_MB",
    "GP3_READS",
    "Accuracy",
    "Bottleneck",
    "ClassAccuracy",
    "Counters",
    "Meter",
    "Precision",
    "Progress",
    "SpotWatch",
    "Step",
    "StopRequest",
    "Suggestion",
    "Tried",
    "choose_precision",
    "evaluate",
    "full_precision",
    "growing_rates",
    "learning_rate",
    "make_loss",
    "make_optimizer",
    "metadata_service",
    "mirrored",
    "mixed",
    "one_cycle",
    "parameter_groups",
    "range_test",
    "read_counters",
    "stepwise",
    "suggest",
    "train",
    "verdict",
    "warmup_cosine",
    "warmup_linear",
]
