"""What a recipe can ask for, and that a network still learns with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import ALONE, torchvisions_preprocessing
from trainer.config import Optimizer, Preprocess, Recipe, Schedule
from trainer.dataloader import ValLoader
from trainer.dataset import Split, open_dataset
from trainer.tracking import NullLog
from trainer.training import train

pytestmark = pytest.mark.slow

FORMS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "randaugment, erasing and mixup": {
        "preprocess": Preprocess(augment="randaugment", erasing=0.25),
        "mixup": 0.2,
    },
    "trivialaugment, jitter, cutmix and label smoothing": {
        "preprocess": Preprocess(augment="trivialaugment", color_jitter=(0.4, 0.4, 0.4, 0.1)),
        "cutmix": 1.0,
        "label_smoothing": 0.1,
    },
    "LAMB, timm's loss and RandAugment, and repeated augmentation": {
        "preprocess": Preprocess(augment="timm_randaugment", randaugment_magnitude=6),
        "loss": "binary_cross_entropy",
        "bce_sum": False,
        "bce_target_threshold": 0.2,
        "mixup": 0.1,
        "repeated_augmentation": 2,
        "optimizer": Optimizer(name="lamb", base_lr=0.04, weight_decay=0.02, clip_norm=1.0),
    },
    "binary cross-entropy, AdamW, clipping, averaging and growing crops": {
        "preprocess": Preprocess(min_res=16, res_step=8),
        "loss": "binary_cross_entropy",
        "optimizer": Optimizer(name="adamw", base_lr=0.02, clip_norm=5.0),
        "ema_decay": 0.9,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_it_still_learns_with(form: str, digits: Path, tiny: Recipe, tmp_path: Path) -> None:
    chosen = dict(FORMS[form])
    preprocess = replace(
        chosen.pop("preprocess", Preprocess()),
        train_size=32,
        val_resize=32,
        val_size=32,
        crop_area=(0.7, 1),
        flip=False,
    )
    recipe = replace(
        tiny,
        model="tests.nets:Learner",
        epochs=6,
        global_batch=64,
        log_every=20,
        schedule=Schedule(warmup_epochs=1),
        preprocess=preprocess,
        **chosen,
    )
    model, accuracy = train(recipe, open_dataset(digits), tmp_path, ALONE, NullLog())

    assert accuracy.top1 > (0.9 if form == "nothing" else 0.75), "chance is 0.1"
    if form == "nothing":
        assert agreement(model, open_dataset(digits).val, recipe.preprocess) >= 0.998


@torch.inference_mode()
def agreement(model: nn.Module, split: Split, preprocess: Preprocess) -> float:
    """Share of the images that the model judges alike, whether we or torchvision prepare them."""
    reference = torchvisions_preprocessing(preprocess)
    ours = torch.cat(
        [model(batch.images).argmax(1) for batch in ValLoader(split, preprocess, ALONE, batch=60)]
    )
    photos = (Image.open(split.path(index)).convert("RGB") for index in range(len(split)))
    theirs = torch.cat([model(reference(photo)[None]).argmax(1) for photo in photos])
    return (ours == theirs).float().mean().item()
