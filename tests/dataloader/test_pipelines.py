"""The pixels that come out of DALI's pipelines."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from nvidia.dali import backend
from PIL import Image

from tests.conftest import ALONE, torchvisions_preprocessing, write_odd_files
from trainer.config import Decoder, Preprocess, Recipe
from trainer.dataloader import MEAN, STD, TrainLoader, ValLoader
from trainer.dataloader._augment import make_augmentations
from trainer.dataloader._pipelines import Stages, build_pipelines, train_stages, val_stages
from trainer.dataset import Dataset, folder, open_dataset, prepare


def test_a_training_batch_is_normalised_and_channels_last_without_a_copy(
    dataset: Dataset, tiny: Recipe
) -> None:
    (batch, *_) = TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1)

    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images._base is not None, "a view of what DALI wrote, not a copy"
    assert batch.labels.dtype == torch.int64
    assert 0.2 < batch.images.std() < 2.5


def test_a_flipped_crop_is_the_mirror_of_the_same_pixels(dataset: Dataset, tiny: Recipe) -> None:
    """With the crop fixed to the whole image, each output is the resized photo or its mirror."""
    whole = replace(tiny.preprocess, crop_area=(1.0, 1.0), crop_ratio=(0.01, 100.0), train_size=32)
    shown = {}
    for flip in (False, True):
        recipe = replace(tiny, preprocess=replace(whole, flip=flip))
        shown[flip] = torch.cat(
            [b.images for b in TrainLoader(dataset.train, recipe, ALONE).batches(first_step=0, last_step=2)]
        )
    same = [(a - b).abs().max() < 1e-5 for a, b in zip(shown[True], shown[False], strict=True)]
    mirrored = [(a.flip(-1) - b).abs().max() < 1e-5 for a, b in zip(shown[True], shown[False], strict=True)]

    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_validation_pixels_are_torchvisions(dataset: Dataset, tiny: Recipe) -> None:
    for preprocess in (tiny.preprocess, Preprocess(val_resize=256, val_size=224)):
        reference = torchvisions_preprocessing(preprocess)
        ours = torch.cat([batch.images for batch in ValLoader(dataset.val, preprocess, ALONE, batch=4)])
        theirs = torch.stack([reference(Image.open(dataset.val.path(index))) for index in range(9)])

        assert (ours - theirs).abs().mean(dim=(1, 2, 3)).max() * min(STD) < 0.5 / 255


def test_odd_files_decode_as_pillow_decodes_them(tmp_path: Path, tiny: Recipe) -> None:
    """Grey, CMYK, a PNG named .JPEG, and an EXIF rotation, which is not applied."""
    write_odd_files(tmp_path / "val" / "odd")
    shutil.copytree(tmp_path / "val", tmp_path / "train")
    prepare(folder(tmp_path, out=tmp_path), tmp_path)
    split = open_dataset(tmp_path).val

    decoded = torch.cat([b.images for b in ValLoader(split, tiny.preprocess, ALONE, batch=4)])
    for index, image in enumerate(decoded):
        pillow = Image.open(split.path(index)).convert("RGB").resize((48, 36), Image.Resampling.BILINEAR)
        pixels = np.asarray(pillow.crop((8, 2, 40, 34)), dtype=np.float32) / 255
        theirs = (torch.from_numpy(pixels) - torch.tensor(MEAN)) / torch.tensor(STD)
        assert (image.permute(1, 2, 0) - theirs).abs().mean() * min(STD) < 2 / 255, split.name(index)


def test_batches_in_16_bits_are_those_in_32_rounded(dataset: Dataset, tiny: Recipe) -> None:
    full, half = (
        next(TrainLoader(dataset.train, tiny, ALONE, dtype=dtype).batches(first_step=0, last_step=1))
        for dtype in (torch.float32, torch.float16)
    )

    assert half.images.dtype == torch.float16
    assert half.images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(half.images.float(), full.images, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("decoder", ["mixed", "mixed-huffman", "cpu"])
@pytest.mark.parametrize("augment", ["none", "randaugment", "trivialaugment"])
def test_each_operator_of_a_gpus_pipeline_exists_for_its_device(
    tiny: Recipe, decoder: Decoder, augment: Literal["none", "randaugment", "trivialaugment"]
) -> None:
    """Looked up in DALI's registry, which needs no GPU; running them does."""
    changes = {"augment": augment, "randaugment_ops": 1, "color_jitter": (0.4, 0.4, 0.4, 0.1), "erasing": 0.5}
    crops = replace(tiny.preprocess, **changes)
    training = train_stages(
        lambda: (), make_augmentations(crops), size=32, decoder=decoder, dtype=torch.float16
    )
    known = {
        "cpu": backend.RegisteredCPUOps(),
        "gpu": backend.RegisteredGPUOps(),
        "mixed": backend.RegisteredMixedOps(),
    }

    def devices(stages: Stages, *, conditionals: bool) -> dict[str, str]:
        (pipeline,) = build_pipelines(
            stages, conditionals=conditionals, batch_size=8, num_threads=1, device_id=0
        )
        pipeline._build_graph()
        placed = {(op._op.schema.Name(), op._op.device) for op in pipeline._ops}
        assert [(name, device) for name, device in placed if name not in known[device]] == []
        return {name: device for name, device in placed if name.startswith("decoders__") or name == "Resize"}

    on = "cpu" if decoder == "cpu" else "mixed"
    assert devices(training, conditionals=True) == {"decoders__ImageSlice": on, "Resize": "gpu"}
    validation = val_stages(lambda: (), size=32, decoder=decoder)
    assert devices(validation, conditionals=False) == {"decoders__Image": on, "Resize": "gpu"}
