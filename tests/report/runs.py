"""Journals of runs that were not trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import metrics
from trainer.config import Recipe
from trainer.tracking import PRICE, DatasetInfo, Journal, RunInfo

IMAGES, BATCH, EVALUATION = 40, 10, 2.0  # in an epoch, in a step; seconds
SECONDS = IMAGES / 10 + EVALUATION  # of an epoch at full speed, 10 images/s


def evaluated_run(
    folder: Path,
    *,
    top1: Sequence[float] = (0.25, 0.5),
    speed: float = 1.0,
    usd: float = 0.0,
    val_digest: str = "v" * 64,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **settings: Any,
) -> Path:
    """The folder of a run that has these accuracies, an epoch each; `settings` replace those of the recipe."""
    recipe = Recipe(registered_model_name="tiny", global_batch=BATCH, epochs=8)
    price = {PRICE: str(usd)} if usd else {}
    folder.mkdir(parents=True)
    log = Journal(folder)
    log.start(
        RunInfo(
            folder.name,
            "tiny",
            dict(params or recipe.flat()) | settings,
            {"gpu": "NVIDIA T4", "world_size": "2", "recipe": "unnamed", "val_digest": val_digest}
            | price
            | dict(tags or {}),
            DatasetInfo("photos", "d" * 64, "/photos", {"train": IMAGES, "val": 8}, val_digest),
        )
    )
    for epoch, accuracy in enumerate(top1, start=1):
        step = epoch * IMAGES // BATCH
        log.log(step, {metrics.TRAIN_LOSS: 1.0, metrics.THROUGHPUT: 10 * speed, metrics.LR: 0.1})
        values = {metrics.VAL_TOP1: accuracy, metrics.VAL_LOSS: 1 - accuracy, metrics.EPOCH: float(epoch)}
        log.log(step, values | {metrics.EVALUATION_SECONDS: EVALUATION / speed})
    log.finish("finished")
    return folder
