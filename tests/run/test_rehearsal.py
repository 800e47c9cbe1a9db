"""Settings that fit each other's types but not torch, the network or the number of steps are refused at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import write_photo
from trainer.dataset import folder, prepare
from trainer.errors import ConfigError, DataError
from trainer.run import TrainOptions, make_plan
from trainer.run._rehearsal import rehearse


def plan(photos: Path, runs: Path, *settings: str) -> Any:
    small = ("global_batch=8", "classes=null", "model=resnet18", *settings)
    return make_plan(TrainOptions(recipe="digits", data=photos, runs=runs, set=small))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["epochs=1", "schedule.warmup_epochs=0.9"],
            "warm-up .2 steps. must be shorter .* schedule.warmup_epochs",
        ),
        (["epochs=1", "schedule.name=onecycle"], "too short to rise .*change schedule.pct_start or epochs"),
        (["ema_decay=0.9", "ema_steps=1000"], "ema_steps=1000 is more than the 28 steps of the run"),
        (["model=vit_b_16"], "model=vit_b_16 .*Wrong image height"),
        (["model=alexnet", "preprocess.train_size=16"], "model=alexnet cannot be trained as the recipe says"),
        (["model=swin_t", "preprocess.val_size=1", "preprocess.train_size=64"], "model=swin_t"),
        (["model=tests.run.test_rehearsal:Broken"], "RuntimeError: out of ideas"),
        (["model=tests.run.test_rehearsal:Looks"], "can be trained but not registered: torch.export cannot"),
        (["model=tests.run.test_rehearsal:Wide"], r"answers \(2, 7\) to 2 images of 2 classes"),
        (["model=tests.run.test_rehearsal:NoModule"], "answers int, not a torch.nn.Module"),
        (["model=tests.run.test_rehearsal:Needy"], "TypeError: .*missing .*argument"),
    ],
)
def test_what_would_fail_in_the_first_step_or_the_last_is_refused_by_name(
    photos: Path, tmp_path: Path, settings: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        rehearse(plan(photos, tmp_path, *settings), 8)

    assert "\n" not in str(error.value)


def test_one_image_at_a_time_is_refused_where_batchnorm_needs_two(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"more than 1 value per channel.*larger global_batch, --batch-per-gpu"
    ):
        rehearse(plan(photos, tmp_path), 1)

    rehearse(plan(photos, tmp_path, "preprocess.train_size=64"), 1)
    rehearse(plan(photos, tmp_path, "model=tests.nets:Small"), 1)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["optimizer.name=adamw", "optimizer.clip_norm=1"],
        ["optimizer.nesterov=true"],
        ["loss=binary_cross_entropy", "mixup=0.2", "cutmix=1", "label_smoothing=0.1"],
        ["model=resnet50_blurpool", "preprocess.min_res=16"],
        ["model=tests.run.test_rehearsal:Hides"],
        ["model=tests.nets:Small"],
        ["schedule.name=onecycle"],
        ["sync_batch_norm=true", "precision=fp16", "ema_decay=0.9"],
        [
            "model=vit_b_16",
            "preprocess.train_size=224",
            "preprocess.val_size=224",
            "preprocess.val_resize=224",
        ],
    ],
)
def test_what_can_be_trained_passes_and_leaves_the_random_state_as_it_was(
    photos: Path, tmp_path: Path, settings: list[str]
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    rehearse(plan(photos, tmp_path, *settings), 8)

    assert torch.equal(torch.rand(4), expected)


def test_a_validation_image_that_has_changed_is_named_and_one_that_only_pillow_refuses_is_passed_over(
    tmp_path: Path,
) -> None:
    for part in ("train", "val"):
        for index in range(8):
            write_photo(tmp_path / "data" / part / "cat" / f"{index}.JPEG", seed=index)
    image = tmp_path / "data" / "val" / "cat" / "0.JPEG"
    image.write_bytes(image.read_bytes()[:-200])  # `prepare` looks at headers only
    prepare(folder(tmp_path / "data", out=tmp_path / "data"), tmp_path / "data")
    rehearse(plan(tmp_path / "data", tmp_path), 8)  # the others are there to try the bundle on

    image.write_bytes(b"\0" * image.stat().st_size)
    with pytest.raises(DataError, match=r"0.JPEG has changed since it was prepared"):
        rehearse(plan(tmp_path / "data", tmp_path), 8)


class Linear(torch.nn.Module):
    """The smallest network."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.mean(dim=(2, 3)))


class Looks(Linear):
    """Asks for numbers, which the meta device has not."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images / max(1.0, images.abs().max().item()))


class Hides(Linear):
    """Cannot be run on the meta device, but followed by torch.export."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.is_meta:
            raise NotImplementedError
        return super().forward(images)


class Broken(Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of\nideas")


class Wide(Linear):
    def __init__(self, num_classes: int) -> None:
        super().__init__(7)


class Needy(Linear):
    def __init__(self, num_classes: int, depth: int) -> None:
        super().__init__(num_classes)


def NoModule(num_classes: int) -> int:
    return num_classes
