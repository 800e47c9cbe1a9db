"""Which images, crops and indices the batches of training and validation have."""

import gc
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ALONE
from tests.dataset.encoded import encoded, inserted, lossless, pixels
from trainer.config import Execution, Phase, PhasePreprocess, Preprocess, Recipe
from trainer.dataloader import Batch, TrainLoader, ValLoader, check_decoding, step_draws
from trainer.dataloader._crops import CROP_DRAWS
from trainer.dataloader._reader import MAX_PIXELS, PlannedBatch
from trainer.dataset import Dataset, Split, folder, open_dataset, prepare
from trainer.distributed import World
from trainer.errors import DataError

AUGMENTED = Preprocess(
    train_size=32, augment="randaugment", color_jitter=(0.4, 0.4, 0.4, 0.1), erasing=0.5, crop_area=(0.3, 1)
)


def worlds(size: int) -> list[World]:
    return [World(rank, size, torch.device("cpu")) for rank in range(size)]


def test_images_keep_their_labels(dataset: Dataset, tiny: Recipe) -> None:
    images = TrainLoader(dataset.train, tiny, ALONE)
    batches = list(images.batches(first_step=0, last_step=2))

    for step, batch in enumerate(batches):
        assert batch.labels.tolist() == dataset.train.labels[images.indices(step, 0)].tolist()


def test_training_batches_name_their_images(dataset: Dataset, tiny: Recipe) -> None:
    """Also where the crops grow, and a new pipeline begins."""
    crops = replace(tiny.preprocess, min_res=16, res_step=8, ramp=(0.25, 0.75))
    recipe, execution = replace(tiny, epochs=4, preprocess=crops), Execution(batch_per_gpu=4)
    images = TrainLoader(dataset.train, recipe, ALONE, execution)
    batches = list(images.batches(first_step=3, last_step=8))

    assert [batch.indices.tolist() for batch in batches if batch.indices is not None] == [
        images.indices(step, micro_step).tolist() for step in range(3, 8) for micro_step in range(2)
    ]


def test_a_step_has_the_same_images_and_crops_at_any_number_of_processes(
    dataset: Dataset, tiny: Recipe
) -> None:
    (alone,) = TrainLoader(dataset.train, tiny, ALONE).batches(first_step=3, last_step=4)
    shares = [
        next(TrainLoader(dataset.train, tiny, world).batches(first_step=3, last_step=4))
        for world in worlds(2)
    ]

    torch.testing.assert_close(torch.cat([share.images for share in shares]), alone.images, rtol=0, atol=0)
    assert torch.cat([share.labels for share in shares]).tolist() == alone.labels.tolist()


def test_accumulated_micro_batches_make_the_same_global_batch(dataset: Dataset, tiny: Recipe) -> None:
    (whole,) = TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1)
    images = TrainLoader(dataset.train, tiny, ALONE, Execution(batch_per_gpu=2))
    micro_batches = list(images.batches(first_step=0, last_step=1))

    assert images.micro_batch == 2
    torch.testing.assert_close(
        torch.cat([batch.images for batch in micro_batches]), whole.images, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("processes", "batch_per_gpu", "preprocess"),
    [(1, 2, None), (2, 4, None), (2, 1, None), (4, 2, None), (4, 1, None), (8, 1, None), (2, 2, AUGMENTED)],
)
def test_a_step_is_the_same_at_any_number_of_processes_and_accumulation_steps(
    dataset: Dataset, tiny: Recipe, processes: int, batch_per_gpu: int, preprocess: Preprocess | None
) -> None:
    """And taken up in the middle of the second epoch, at step 3, as well as run through from the start."""
    recipe = replace(tiny, preprocess=preprocess or tiny.preprocess)
    unbroken = list(TrainLoader(dataset.train, recipe, ALONE).batches(first_step=0, last_step=5))[3:]
    shares = [
        list(
            TrainLoader(dataset.train, recipe, world, Execution(batch_per_gpu=batch_per_gpu)).batches(
                first_step=3, last_step=5
            )
        )
        for world in worlds(processes)
    ]
    micro_batches = [batch for same_micro_step in zip(*shares, strict=True) for batch in same_micro_step]

    for name in ("images", "labels", "indices"):
        ours = torch.cat([getattr(batch, name) for batch in micro_batches])
        assert torch.equal(ours, torch.cat([getattr(batch, name) for batch in unbroken])), name


def test_draws_belong_to_the_position_in_the_global_batch(dataset: Dataset, tiny: Recipe) -> None:
    """Each process takes its rows of the one array of the step: here the flips, which are its last column."""
    unflipped = replace(tiny, preprocess=replace(tiny.preprocess, flip=False))
    draws = step_draws(tiny.seed, 3, 8, CROP_DRAWS + 1)
    flipped = torch.from_numpy(draws[:, CROP_DRAWS] < 0.5)
    for world in worlds(2):
        execution = Execution(batch_per_gpu=2)
        pairs = zip(
            TrainLoader(dataset.train, tiny, world, execution).batches(first_step=3, last_step=4),
            TrainLoader(dataset.train, unflipped, world, execution).batches(first_step=3, last_step=4),
            strict=True,
        )
        for micro_step, (ours, plain) in enumerate(pairs):
            start = (2 * micro_step + world.rank) * 2
            mirrored = (ours.images.flip(-1) - plain.images).abs().amax(dim=(1, 2, 3)) < 1e-5

            assert mirrored.tolist() == flipped[start : start + 2].tolist()


def test_half_of_the_images_are_mirrored() -> None:
    flips = step_draws(0, 0, 100_000, CROP_DRAWS + 1)[:, CROP_DRAWS] < 0.5

    assert abs(flips.mean() - 0.5) < 4.9 * 0.5 / np.sqrt(100_000), "one in a million"


@pytest.mark.parametrize("seed", [1, 2**31, 2**63 - 1])
def test_any_seed_trains(dataset: Dataset, tiny: Recipe, seed: int) -> None:
    (batch,) = TrainLoader(dataset.train, replace(tiny, seed=seed), ALONE).batches(first_step=0, last_step=1)
    (usual,) = TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1)

    assert batch.images.shape == usual.images.shape
    assert not torch.equal(batch.images, usual.images)


@pytest.mark.parametrize("first_step", [3, 4])
def test_batches_do_not_depend_on_where_the_run_was_taken_up(
    dataset: Dataset, tiny: Recipe, first_step: int
) -> None:
    images = TrainLoader(dataset.train, tiny, ALONE)
    unbroken = list(images.batches(first_step=0, last_step=6))
    resumed = list(images.batches(first_step=first_step, last_step=6))

    for one, other in zip(unbroken[first_step:], resumed, strict=True):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)


def test_an_epoch_uses_no_image_twice(dataset: Dataset, tiny: Recipe) -> None:
    images = TrainLoader(dataset.train, tiny, ALONE)
    used = np.concatenate([images.indices(step, 0) for step in range(images.steps_per_epoch)])

    assert len(set(used)) == len(used) == 16


def test_crops_grow_with_the_epoch_and_the_order_goes_on(dataset: Dataset, tiny: Recipe) -> None:
    crops = replace(tiny.preprocess, min_res=16, res_step=8, ramp=(0.25, 0.75))
    images = TrainLoader(dataset.train, replace(tiny, epochs=4, preprocess=crops), ALONE)
    batches = list(images.batches(first_step=0, last_step=8))
    (resumed,) = images.batches(first_step=5, last_step=6)

    assert [batch.images.shape[-1] for batch in batches] == [16, 16, 16, 16, 24, 24, 32, 32]
    assert [batch.labels.tolist() for batch in batches] == [
        dataset.train.labels[images.indices(step, 0)].tolist() for step in range(8)
    ]
    assert torch.equal(resumed.images, batches[5].images)


def test_batches_are_those_of_the_old_settings_before_a_phase_and_of_its_own_from_it_on(
    dataset: Dataset, tiny: Recipe
) -> None:
    """Bit for bit, and taken up at its first step and in its middle as well as run through."""
    crops = replace(AUGMENTED, augment="none", min_res=16, res_step=8, ramp=(0, 0.25))
    before = replace(tiny, epochs=4, preprocess=crops)
    changes = PhasePreprocess(
        train_size=40, augment="trivialaugment", erasing=0.0, crop_area=(0.9, 1.0), flip=False
    )
    recipe = replace(before, phases=(Phase(at=0.5, preprocess=changes),))
    afterwards = replace(
        before,
        preprocess=Preprocess(
            train_size=40,
            augment="trivialaugment",
            color_jitter=AUGMENTED.color_jitter,
            crop_area=(0.9, 1.0),
            flip=False,
        ),
    )

    def images(recipe: Recipe, first: int, last: int) -> list[torch.Tensor]:
        execution = Execution(batch_per_gpu=4)
        loader = TrainLoader(dataset.train, recipe, ALONE, execution)
        return [batch.images for batch in loader.batches(first_step=first, last_step=last)]

    ours = images(recipe, 0, 8)
    expected = images(before, 0, 4) + images(afterwards, 4, 8)

    assert [one.shape[-1] for one in ours] == 4 * [16] + 4 * [32] + 8 * [40]
    assert all(torch.equal(*both) for both in zip(ours, expected, strict=True))
    for first in (4, 5):
        assert all(
            torch.equal(*both) for both in zip(images(recipe, first, 8), ours[2 * first :], strict=True)
        )


def test_a_phase_that_leaves_the_images_alone_builds_no_pipeline(dataset: Dataset, tiny: Recipe) -> None:
    loader = TrainLoader(dataset.train, replace(tiny, phases=(Phase(at=0.5, mixup=0.2),)), ALONE)

    assert [(one.first, one.last) for one in loader._stretches(1, 6)] == [(1, 6)]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_validation_counts_every_image_exactly_once(dataset: Dataset, tiny: Recipe, processes: int) -> None:
    batches = [
        batch
        for world in worlds(processes)
        for batch in ValLoader(dataset.val, tiny.preprocess, world, batch=4)
    ]
    labels = torch.cat([batch.labels for batch in batches])
    indices = torch.cat([batch.indices for batch in batches if batch.indices is not None])

    assert sorted(labels.tolist()) == sorted(dataset.val.labels.tolist())
    assert sorted(indices.tolist()) == list(range(len(dataset.val)))
    assert indices.dtype == torch.int64
    assert labels.tolist() == dataset.val.labels[indices.numpy()].tolist()


def test_validation_can_be_repeated(dataset: Dataset, tiny: Recipe) -> None:
    images = ValLoader(dataset.val, tiny.preprocess, ALONE, batch=4)
    repeats = [list(images) for _ in range(3)]
    passes = [torch.cat([batch.images for batch in batches]) for batches in repeats]

    assert passes[0].shape == (9, 3, 32, 32)
    assert torch.equal(passes[0], passes[1])
    assert torch.equal(passes[0], passes[2])
    for batches in repeats:
        indices = [batch.indices.tolist() for batch in batches if batch.indices is not None]
        assert indices == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


@pytest.mark.parametrize("damage", ["emptied", "cut", "overwritten", "zeros", "one bit", "grown"])
def test_a_file_that_went_bad_stops_the_run_with_its_name(
    photos: Path, tmp_path: Path, tiny: Recipe, damage: str
) -> None:
    tree = shutil.copytree(photos, tmp_path / "tree")
    split = open_dataset(tree).train
    bad = tree / "train" / "dog" / "005.JPEG"
    good = bad.read_bytes()
    changed = {
        "emptied": b"",
        "cut": good[:700],
        "overwritten": b"x" * len(good),
        "zeros": bytes(len(good)),
        "one bit": good[:-50] + bytes([good[-50] ^ 1]) + good[-49:],
        "grown": good + b"x" * 99,
    }
    bad.write_bytes(changed[damage])

    with pytest.raises(DataError, match=str(bad)):
        list(TrainLoader(split, tiny, ALONE).batches(first_step=0, last_step=10))


def test_a_file_that_vanished_stops_the_run_with_its_name(photos: Path, tmp_path: Path, tiny: Recipe) -> None:
    tree = shutil.copytree(photos, tmp_path / "tree")
    split = open_dataset(tree).val
    (tree / "val" / "cat" / "000.JPEG").unlink()

    with pytest.raises(DataError, match=r"000\.JPEG cannot be read: No such file"):
        list(ValLoader(split, tiny.preprocess, ALONE, batch=4))


def test_a_batch_outlives_the_pipeline_that_made_it(dataset: Dataset, tiny: Recipe) -> None:
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


def test_nothing_is_left_in_the_folder_of_temporary_files(
    dataset: Dataset, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DALI writes a module there for each function in which images go different ways; killed, it left them."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    augmented = replace(tiny, preprocess=replace(tiny.preprocess, augment="trivialaugment", erasing=0.5))
    for recipe in (tiny, augmented):
        next(TrainLoader(dataset.train, recipe, ALONE).batches(first_step=0, last_step=2))
        assert list(tmp_path.iterdir()) == []


def older(root: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A data set of an older trainer, which took any image that Pillow opens."""

    def size(data: bytes) -> tuple[int, int]:
        with Image.open(io.BytesIO(data)) as image:
            return image.size

    for split in ("train", "val"):
        (root / split / "c").mkdir(parents=True)
        for name, data in files.items():
            (root / split / "c" / name).write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.dataset._preparation.image_size", size)
        prepare(folder(root, out=root), root)
    return open_dataset(root)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (inserted(encoded(), b"\0garbage"), "has stray bytes between the segments of its header"),
        (lossless(pixels()[:, :, 0]), "is a JPEG of the kind SOF3"),
        (encoded()[:-20], "cannot be decoded (Premature end of JPEG file)"),
        (encoded("PNG")[:-12], "ends within its header"),
    ],
    ids=["garbage", "lossless", "cut", "png"],
)
def test_what_an_older_trainer_has_prepared_ends_with_the_name_of_the_image(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch, bad: bytes, said: str
) -> None:
    good = {f"{seed}.jpg": encoded(seed=seed) for seed in range(7)}
    dataset = older(tmp_path, {**good, "bad.jpg": bad}, monkeypatch)

    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/train/c/bad.jpg {said}")):
        list(TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/val/c/bad.jpg {said}")):
        list(ValLoader(dataset.val, tiny.preprocess, ALONE, batch=8))
    assert {one.path for one in check_decoding(dataset) if one.kind == "bad"} == {
        "train/c/bad.jpg",
        "val/c/bad.jpg",
    }


def test_a_strip_that_an_older_trainer_has_prepared_is_named_before_it_takes_all_memory(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    Image.new("L", (65000, 1)).save(file, "PNG")
    dataset = older(tmp_path, {"a.jpg": encoded(), "strip.png": file.getvalue()}, monkeypatch)
    preprocess = replace(tiny.preprocess, val_resize=256)

    with pytest.raises(DataError, match=r"strip\.png is made 4,259,840,000 pixels large to be validated"):
        list(ValLoader(dataset.val, preprocess, ALONE, batch=8))


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 10_000, 20_000])
def test_batches_are_the_same_when_their_images_are_decoded_in_pieces(
    dataset: Dataset, tiny: Recipe, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Large photos are decoded a few at a time, so that memory does not grow with them."""

    def batches() -> list[Batch]:
        train = TrainLoader(dataset.train, replace(tiny, preprocess=AUGMENTED), ALONE)
        val = ValLoader(dataset.val, replace(tiny.preprocess, val_resize=36), ALONE, batch=4)
        return [*train.batches(first_step=1, last_step=4), *val, *val]

    whole = batches()
    monkeypatch.setattr("trainer.dataloader._reader.MAX_PIXELS", most)
    pieces = batches()

    assert len(whole) == len(pieces) == 3 + 3 + 3
    for one, other in zip(whole, pieces, strict=True):
        assert torch.equal(one.images, other.images)
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.labels, other.labels)
        assert one.indices is not None
        assert other.indices is not None
        assert torch.equal(one.indices, other.indices)


def test_a_batch_is_cut_into_pieces_of_few_pixels_and_at_least_one_image() -> None:
    planned = PlannedBatch(np.arange(6), (np.arange(6) * 10,))
    most = MAX_PIXELS // 4
    pieces = list(planned.pieces(np.array([most, most, 3 * most, 9 * most, most, most])))

    assert [piece.indices.tolist() for piece in pieces] == [[0, 1], [2], [3], [4, 5]]
    assert [piece.arrays[0].tolist() for piece in pieces] == [[0, 10], [20], [30], [40, 50]]
    assert [piece.ends for piece in pieces] == [False, False, False, True]


def test_a_process_without_validation_images_has_no_batch(dataset: Dataset, tiny: Recipe) -> None:
    one = Split(dataset.val.root, dataset.val.rows[:1])
    loaders = [ValLoader(one, tiny.preprocess, world, batch=4) for world in worlds(2)]

    assert [[len(batch.labels) for batch in loader] for loader in loaders] == [[1], []]
    assert [[len(batch.labels) for batch in loader] for loader in loaders] == [[1], []]  # and so again
    assert {loader.rounds for loader in loaders} == {1}
