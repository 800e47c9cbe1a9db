"""Names of all metrics, as the journal and MLflow have them; docs/decisions/0008-metric-names.md says why these.

MLflow shows the charts in sections named by what stands before the last slash, in alphabetical order: `eval` before
`train`, and what is below `train/` after it.
"""

from __future__ import annotations

VAL_TOP1 = "eval/top1"  # of the validation images; share in 0..1, as all accuracies
VAL_TOP5 = "eval/top5"
VAL_LOSS = "eval/loss"  # nats, as all losses
EPOCH = "epoch"  # passes over the training images; with each evaluation, as an x-axis of MLflow's charts

TRAIN_TOP1 = "train/top1"
TRAIN_TOP5 = "train/top5"
TRAIN_LOSS = "train/loss"
LR = "train/lr"
LOSS_SCALE = "train/amp/loss_scale"  # fp16 only
SKIPPED_STEPS = "train/amp/skipped_steps"  # in this log interval; fp16 only

THROUGHPUT = "train/throughput/images_per_second"  # all processes together
DATA_WAIT = "train/throughput/data_wait_share"  # of the time, in 0..1
LONGEST_STEP = "train/throughput/longest_step_seconds"
GPU_MEMORY = "train/throughput/gpu_memory_gib"  # largest allocation
EVALUATION_SECONDS = "train/throughput/evaluation_seconds"
STEP_MS = "train/throughput/step_ms/"  # prefix of the phases' names; milliseconds of a step

FIND_LR = "find_lr/"  # prefix of the columns of the range test's table
