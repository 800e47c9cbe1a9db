"""What comes out of the DALI graphs."""

import gc
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ALONE, torchvisions_preprocessing, write_odd_files
from trainer.config import Preprocess
from trainer.dataloader import MEAN, STD, TrainLoader, ValLoader, file_reader_batches
from trainer.dataloader._loaders import _read_file
from trainer.dataset import folder, open_dataset, prepare
from trainer.distributed import World
from trainer.errors import DataError


def places(size):
    return [World(rank, size, torch.device("cpu")) for rank in range(size)]


def test_a_training_batch_is_normalised_and_channels_last_without_a_copy(dataset, tiny):
    (batch, *_) = TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1)

    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images._base is not None, "a view of what DALI wrote, not a copy"
    assert batch.labels.dtype == torch.int64
    assert 0.2 < batch.images.std() < 2.5


def test_images_keep_their_labels(dataset, tiny):
    images = TrainLoader(dataset.train, tiny, ALONE)
    batches = list(images.batches(first_step=0, last_step=2))

    for step, batch in enumerate(batches):
        assert batch.labels.tolist() == dataset.train.labels[images.indices(step, 0)].tolist()


def test_a_step_has_the_same_images_and_crops_at_any_number_of_processes(dataset, tiny):
    (alone,) = TrainLoader(dataset.train, tiny, ALONE).batches(first_step=3, last_step=4)
    shares = [
        next(TrainLoader(dataset.train, tiny, world).batches(first_step=3, last_step=4))
        for world in places(2)
    ]

    torch.testing.assert_close(torch.cat([share.images for share in shares]), alone.images, rtol=0, atol=0)
    assert torch.cat([share.labels for share in shares]).tolist() == alone.labels.tolist()


def test_accumulated_micro_batches_make_the_same_global_batch(dataset, tiny):
    from dataclasses import replace

    (whole,) = TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1)
    images = TrainLoader(dataset.train, replace(tiny, batch_per_gpu=2), ALONE)
    parts = list(images.batches(first_step=0, last_step=1))

    assert images.micro_batch == 2
    torch.testing.assert_close(torch.cat([part.images for part in parts]), whole.images, rtol=0, atol=0)


def test_batches_do_not_depend_on_where_the_run_was_taken_up(dataset, tiny):
    images = TrainLoader(dataset.train, tiny, ALONE)
    unbroken = list(images.batches(first_step=0, last_step=6))
    resumed = list(images.batches(first_step=4, last_step=6))

    for one, other in zip(unbroken[4:], resumed, strict=True):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)


def test_an_epoch_uses_no_image_twice(dataset, tiny):
    images = TrainLoader(dataset.train, tiny, ALONE)
    used = np.concatenate([images.indices(step, 0) for step in range(images.steps_per_epoch)])

    assert len(set(used)) == len(used) == 16


def test_a_flipped_crop_is_the_mirror_of_the_same_pixels(dataset, tiny):
    """With the crop fixed to the whole image, each output is the resized photo or its mirror."""
    from dataclasses import replace

    whole = replace(tiny.preprocess, crop_area=(1.0, 1.0), crop_ratio=(0.01, 100.0), train_size=32)
    shown = {}
    for flip in (False, True):
        recipe = replace(tiny, images=replace(whole, flip=flip))
        shown[flip] = torch.cat(
            [b.images for b in TrainLoader(dataset.train, recipe, ALONE).batches(first_step=0, last_step=2)]
        )
    same = [(a - b).abs().max() < 1e-5 for a, b in zip(shown[True], shown[False], strict=True)]
    flip_tta = [(a.flip(-1) - b).abs().max() < 1e-5 for a, b in zip(shown[True], shown[False], strict=True)]

    assert all(s != m for s, m in zip(same, flip_tta, strict=True))
    assert any(same)
    assert any(flip_tta)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_validation_counts_every_image_exactly_once(dataset, tiny, processes):
    seen = [
        labels
        for world in places(processes)
        for batch in ValLoader(dataset.val, tiny.preprocess, world, batch=4)
        for labels in batch.labels.tolist()
    ]

    assert sorted(seen) == sorted(dataset.val.labels.tolist())


def test_validation_can_be_repeated(dataset, tiny):
    images = ValLoader(dataset.val, tiny.preprocess, ALONE, batch=4)
    passes = [torch.cat([batch.images for batch in images]) for _ in range(3)]

    assert passes[0].shape == (9, 3, 32, 32)
    assert torch.equal(passes[0], passes[1])
    assert torch.equal(passes[0], passes[2])


def test_validation_pixels_are_torchvisions(dataset, tiny):
    for images in (tiny.preprocess, Preprocess(val_resize=256, val_size=224)):
        reference = torchvisions_preprocessing(images)
        ours = torch.cat([batch.images for batch in ValLoader(dataset.val, images, ALONE, batch=4)])
        theirs = torch.stack([reference(Image.open(dataset.val.path(index))) for index in range(9)])

        assert (ours - theirs).abs().mean(dim=(1, 2, 3)).max() * min(STD) < 0.5 / 255


def test_odd_files_decode_as_pillow_decodes_them(tmp_path, tiny):
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


@pytest.mark.parametrize("damage", ["emptied", "cut", "overwritten", "grown"])
def test_a_file_that_went_bad_stops_the_run_with_its_name(photos, tmp_path, tiny, damage):
    tree = shutil.copytree(photos, tmp_path / "tree")
    split = open_dataset(tree).train
    bad = tree / "train" / "dog" / "005.JPEG"
    good = bad.read_bytes()
    bad.write_bytes(
        {"emptied": b"", "cut": good[:700], "overwritten": b"x" * len(good), "grown": good + b"x" * 99}[
            damage
        ]
    )

    with pytest.raises(DataError, match=str(bad)):
        list(TrainLoader(split, tiny, ALONE).batches(first_step=0, last_step=10))


@pytest.mark.parametrize("change", [-1, 0, 1, 99])
def test_a_file_fills_its_place_and_no_byte_beside_it(tmp_path, change):
    (tmp_path / "a.JPEG").write_bytes(b"x" * (100 + change))
    memory = np.zeros(102, np.uint8)
    path, place = os.fsencode(tmp_path / "a.JPEG"), memory[1:101]

    if change:
        with pytest.raises(DataError, match=f"has {100 + change:,} bytes and was prepared with 100"):
            _read_file(path, place)
    else:
        _read_file(path, place)
        assert (place == ord("x")).all()
    assert memory[[0, 101]].tolist() == [0, 0]


def test_a_batch_outlives_the_graph_that_made_it(dataset, tiny):
    """DALI works on our memory: what it was given must stay, however many batches come after it."""
    images = TrainLoader(dataset.train, tiny, ALONE)
    kept = [
        (batch, batch.images.clone(), batch.labels.clone())
        for batch in images.batches(first_step=0, last_step=40)
    ]
    gc.collect()
    _others = [np.full(8, 255, np.int64) for _ in range(10_000)]

    assert all(
        torch.equal(batch.images, pixels) and torch.equal(batch.labels, labels)
        for batch, pixels, labels in kept
    )


def test_a_file_that_vanished_stops_the_run_with_its_name(photos, tmp_path, tiny):
    tree = shutil.copytree(photos, tmp_path / "tree")
    split = open_dataset(tree).val
    (tree / "val" / "cat" / "000.JPEG").unlink()

    with pytest.raises(DataError, match=r"000\.JPEG cannot be read: No such file"):
        list(ValLoader(split, tiny.preprocess, ALONE, batch=4))


def test_dalis_own_reader_makes_batches_of_the_same_kind(dataset, tiny):
    ours = next(TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1))
    theirs = file_reader_batches(dataset.train, tiny.preprocess, ALONE, batch=8, seed=0)
    batches = [next(theirs) for _ in range(5)]  # two epochs: it does not end

    for batch in batches:
        assert batch.images.shape == ours.images.shape
        assert batch.images.stride() == ours.images.stride()
        assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int32)
        assert 0.2 < batch.images.std() < 2.5
    assert {label for batch in batches for label in batch.labels.tolist()} == {0, 1}
