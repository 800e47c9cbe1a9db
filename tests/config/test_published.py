"""Shipped recipes have the settings that their sources were published with."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from trainer.config import Optimizer, load_recipe

# Flags of the sources' training scripts, and our settings.
FLAGS = {
    "--epochs": "epochs",
    "--smoothing": "label_smoothing",
    "--label-smoothing": "label_smoothing",
    "--mixup": "mixup",
    "--mixup-alpha": "mixup",
    "--cutmix": "cutmix",
    "--cutmix-alpha": "cutmix",
    "--weight-decay": "optimizer.weight_decay",
    "--opt": "optimizer.name",
    "--warmup-epochs": "schedule.warmup_epochs",
    "--lr-warmup-epochs": "schedule.warmup_epochs",
    "--drop-path": "stochastic_depth",
    "--aug-repeats": "repeated_augmentation",
    "--ra-reps": "repeated_augmentation",
    "--reprob": "preprocess.erasing",
    "--random-erase": "preprocess.erasing",
    "--bce-target-thresh": "bce_target_threshold",
    "--train-crop-size": "preprocess.train_size",
    "--val-resize-size": "preprocess.val_resize",
    "--model": "model",
}
# github.com/Alibaba-MIIL/ML_Decoder, README.md: "A2 configuration training", without its own network, and with the
# learning rate of the paper (theirs is 4e-3).
A2 = """--epochs 300 --drop-path 0.05 --opt lamb --weight-decay 0.02 --warmup-epochs 5 --model resnet50 --reprob 0.0
    --mixup 0.1 --cutmix 1.0 --aug-repeats 3 --bce-target-thresh 0.2 --smoothing 0"""
# ResNet50_Weights.IMAGENET1K_V2 of torchvision: references/classification, issue 3995; on 8 GPUs
TORCHVISION = """--model resnet50 --lr-warmup-epochs 5 --epochs 600 --random-erase 0.1 --weight-decay 0.00002
    --label-smoothing 0.1 --mixup-alpha 0.2 --cutmix-alpha 1.0 --train-crop-size 176 --val-resize-size 232
    --ra-reps 4"""
# github.com/Jayant-Guru-Shrivastava/ResNet50_ImageNet1k, README.md section 6.1; epochs: see the recipe
RESNET_D = "--model resnet50d --mixup 0.2 --cutmix 1.0 --label-smoothing 0.1 --reprob 0.25 --warmup-epochs 5"


@pytest.mark.parametrize(
    ("name", "command", "batch", "lr"),
    [
        ("rn50-a2", A2, 8 * 256, 5e-3),
        ("rn50-torchvision", TORCHVISION, 8 * 128, 0.5),
        ("rn50d", RESNET_D, 256, 0.1),
    ],
)
def test_it_has_the_flags_of_the_published_command(name: str, command: str, batch: int, lr: float) -> None:
    recipe = load_recipe(name)
    words = shlex.split(command)
    settings = recipe.flat()

    for flag, value in zip(words[::2], words[1::2], strict=True):
        ours: Any = settings[FLAGS[flag]]
        assert str(ours) == value or float(ours) == pytest.approx(float(value)), flag
    assert recipe.global_batch == batch
    assert recipe.peak_lr == pytest.approx(lr)


def test_mixing_and_erasing_end_in_resnet_50_d_when_they_did_in_the_published_run() -> None:
    """Its README, sections 6.2 and 6.3; in its log the loss falls from 4.0 to 3.1 with the epoch 52, counted from 0."""
    recipe = load_recipe("rn50d")
    of_epochs = [recipe.at(epoch) for epoch in range(recipe.epochs)]

    assert [epoch for epoch, now in enumerate(of_epochs) if now.mixup or now.cutmix] == [*range(52)]
    assert [epoch for epoch, now in enumerate(of_epochs) if now.preprocess.erasing] == [*range(83)]


@pytest.mark.parametrize(
    ("name", "epochs", "size", "lr", "decay", "smoothing", "depth", "repeats", "magnitude", "alpha"),
    [
        ("rn50-a1", 600, 224, 5e-3, 0.01, 0.1, 0.05, 3, 7, 0.2),
        ("rn50-a2", 300, 224, 5e-3, 0.02, 0.0, 0.05, 3, 7, 0.1),
        ("rn50-a3", 100, 160, 8e-3, 0.02, 0.0, 0.0, 1, 6, 0.1),
    ],
)
def test_timms_procedures_are_those_of_the_papers_table(
    name: str,
    epochs: int,
    size: int,
    lr: float,
    decay: float,
    smoothing: float,
    depth: float,
    repeats: int,
    magnitude: int,
    alpha: float,
) -> None:
    """arXiv:2110.00476, table 2."""
    recipe = load_recipe(name)
    preprocess = recipe.preprocess

    assert (recipe.epochs, preprocess.train_size, recipe.global_batch) == (epochs, size, 2048)
    assert recipe.peak_lr == pytest.approx(lr)
    assert (recipe.optimizer.name, recipe.optimizer.weight_decay) == ("lamb", decay)
    assert (recipe.label_smoothing, recipe.stochastic_depth) == (smoothing, depth)
    assert (recipe.repeated_augmentation, preprocess.erasing, recipe.ema_decay) == (repeats, 0, 0)
    assert (preprocess.augment, preprocess.randaugment_magnitude, preprocess.randaugment_std) == (
        "timm_randaugment",
        magnitude,
        0.5,
    )
    assert (recipe.mixup, recipe.cutmix, recipe.loss) == (alpha, 1.0, "binary_cross_entropy")
    assert (preprocess.val_size, preprocess.val_resize) == (224, int(224 / 0.95))


def test_the_ema_of_torchvisions_recipe_is_the_one_that_its_script_makes_of_its_flags() -> None:
    """references/classification/train.py: `--model-ema-steps 32 --model-ema-decay 0.99998`, adjusted to the batch."""
    recipe = load_recipe("rn50-torchvision")
    adjust = recipe.global_batch * recipe.ema_steps / recipe.epochs

    assert recipe.ema_steps == 32
    assert recipe.ema_decay == pytest.approx(1 - min(1.0, (1 - 0.99998) * adjust), abs=1e-12)
    assert recipe.preprocess.augment == "trivialaugment"


def test_mosaicmls_mild_recipe_has_the_sizes_and_settings_of_its_configuration() -> None:
    """github.com/mosaicml/examples, resnet_imagenet: main.py, yamls/resnet50.yaml; composer's ProgressiveResizing."""
    recipe = load_recipe("rn50-mild")

    def published(share: float) -> float:
        initial, delay, finetune = 0.5, 0.4, 0.2
        grown = min(1.0, max(0.0, (share - delay) / (1 - finetune - delay)))
        return 176 * (initial + (1 - initial) * grown)

    sizes = [recipe.train_size(epoch) for epoch in range(recipe.epochs)]
    assert sizes == pytest.approx([published(epoch / 36) for epoch in range(36)], abs=2), "in steps of 4"
    assert {size % 4 for size in sizes} == {0}
    assert (sizes[0], sizes[-1], recipe.preprocess.val_resize) == (88, 176, 232)
    assert (recipe.epochs, recipe.global_batch, recipe.schedule.warmup_epochs) == (36, 2048, 8)
    assert recipe.peak_lr == pytest.approx(2.048)
    assert recipe.optimizer == Optimizer(
        name="sgdw", base_lr=0.256, momentum=0.875, weight_decay=5e-4, decay_norm_and_bias=True
    )
    assert (recipe.loss, recipe.bce_sum, recipe.label_smoothing) == ("binary_cross_entropy", True, 0.08)
    assert recipe.ema_decay == pytest.approx(0.5 ** (recipe.ema_steps / 100)), "half-life of 100 batches"
    assert recipe.ema_steps == 20
