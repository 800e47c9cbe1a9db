"""What a recipe can ask for, and that a network still learns with it."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import ALONE, torchvisions_preprocessing
from trainer.config import Optimizer, Preprocess, Schedule
from trainer.dataloader import ValLoader
from trainer.dataset import open_dataset
from trainer.tracking import NullLog
from trainer.training import train

pytestmark = pytest.mark.slow

FORMS = {
    "nothing": {},
    "randaugment, erasing and mixup": {
        "images": Preprocess(augment="randaugment", erasing=0.25),
        "mixup": 0.2,
    },
    "trivialaugment, jitter, cutmix and label smoothing": {
        "images": Preprocess(augment="trivialaugment", color_jitter=(0.4, 0.4, 0.4, 0.1)),
        "cutmix": 1.0,
        "label_smoothing": 0.1,
    },
    "binary cross-entropy, AdamW, clipping, averaging and growing crops": {
        "images": Preprocess(min_res=16, res_step=8),
        "loss": "binary_cross_entropy",
        "optimizer": Optimizer(kind="adamw", base_lr=0.02, clip_norm=5.0),
        "ema_decay": 0.9,
    },
}


def small(name, classes, **_):
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, classes),
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_it_still_learns_with(form, digits, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.training._step.build", small)
    chosen = dict(FORMS[form])
    images = replace(
        chosen.pop("images", Preprocess()),
        train_size=32,
        val_resize=32,
        val_size=32,
        crop_area=(0.7, 1),
        flip=False,
    )
    recipe = replace(
        tiny, epochs=6, global_batch=64, batch_per_gpu=64, log_every=20, schedule=Schedule(warmup_epochs=1),
        images=images, **chosen,
    )  # fmt: skip
    model, accuracy = train(recipe, open_dataset(digits), tmp_path, ALONE, NullLog())

    assert accuracy.top1 > (0.9 if form == "nothing" else 0.75), "chance is 0.1"
    if form == "nothing":
        assert agreement(model, open_dataset(digits).val, recipe.preprocess) >= 0.998


@torch.inference_mode()
def agreement(model, split, images):
    """Share of the images that the model judges alike, whether we or torchvision prepare them."""
    reference = torchvisions_preprocessing(images)
    ours = torch.cat([model(batch.images).argmax(1) for batch in ValLoader(split, images, ALONE, batch=60)])
    photos = (Image.open(split.path(index)).convert("RGB") for index in range(len(split)))
    theirs = torch.cat([model(reference(photo)[None]).argmax(1) for photo in photos])
    return (ours == theirs).float().mean().item()
