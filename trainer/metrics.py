"""Names of all metrics, as the journal and MLflow have them.

MLflow's charts come in sections named by what stands before the last slash, in alphabetical order.
"""

from __future__ import annotations

VAL_TOP1 = "val/top1"  # share of images in 0..1, as all accuracies
VAL_TOP5 = "val/top5"
VAL_LOSS = "val/loss"  # nats, as all losses
TRAIN_TOP1 = "train/top1"
TRAIN_TOP5 = "train/top5"
TRAIN_LOSS = "train/loss"
LR = "train/learning_rate"
LOSS_SCALE = "train/loss_scale"  # fp16 only
SKIPPED_STEPS = "train/skipped_steps"  # since the last reading; fp16 only
EPOCH = "epoch"  # passes over the training images done

THROUGHPUT = "speed/images_per_second"  # of training, all processes together
DATA_WAIT = "speed/data_wait_share"  # of the time, in 0..1
LONGEST_STEP = "speed/longest_step_seconds"
STEP_MS = "speed/step_ms/"  # and the phase: milliseconds of a step
EVALUATION_SECONDS = "speed/evaluation_seconds"
GPU_MEMORY = "speed/gpu_memory_gib"

FIND_LR = "find_lr/"  # and a column of the range test's table
