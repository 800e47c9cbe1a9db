"""Augmentations of a training crop, against torchvision's."""

# DALI makes its enums at run time and does not type its decorator.
# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload"

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment as timms
from torchvision.transforms import InterpolationMode, RandomErasing
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from tests.conftest import ALONE
from trainer.config import Preprocess, Recipe
from trainer.dataloader import MEAN, STD, TrainLoader, step_draws
from trainer.dataloader._augment import (
    MAGNITUDE_BINS,
    ColorJitter,
    Erasing,
    RandomOps,
    make_augmentations,
)
from trainer.dataloader._augmentation import Augmentation
from trainer.dataloader._timm_randaugment import BINS, GREY, HIGHEST, TimmRandAugment
from trainer.dataset import Dataset
from trainer.distributed import World

Image8 = npt.NDArray[np.uint8]  # (H, W, 3)

SIZE = 128
EVERYTHING = Preprocess(
    train_size=32, augment="randaugment", color_jitter=(0.4, 0.4, 0.4, 0.1), erasing=0.5, crop_area=(0.3, 1)
)

# DALI's operation and torchvision's, with the magnitude of the last bin, and the largest mean difference of
# their pixels (of 255). Equalizing uses other formulas; sharpening treats the border otherwise.
OPERATIONS = {
    "translate_x": ("TranslateX", SIZE * 100 / 224, 3),
    "translate_y": ("TranslateY", SIZE * 100 / 224, 3),
    "shear_x": ("ShearX", 0.3, 3),
    "shear_y": ("ShearY", 0.3, 3),
    "rotate": ("Rotate", 30, 3),
    "brightness": ("Brightness", 0.9, 1),
    "contrast": ("Contrast", 0.9, 1),
    "color": ("Color", 0.9, 1.5),
    "sharpness": ("Sharpness", 0.9, 2),
    "posterize": ("Posterize", 4, 0),
    "solarize": ("Solarize", 0, 0),
    "equalize": ("Equalize", 0, 4),
    "auto_contrast": ("AutoContrast", 0, 1),
    "identity": ("Identity", 0, 0),
}


@pytest.fixture(scope="module")
def photo() -> Image8:
    """A photo of less contrast than the original, so that operations can add some."""
    pixels = np.asarray(Image.fromarray(load_sample_images().images[0]).resize((SIZE, SIZE)))
    return (40 + 0.6 * pixels).astype(np.uint8)


def augmented(augmentation: Augmentation, photo: Image8, params: npt.NDArray[Any]) -> Image8:
    """The photo, once for each row of parameters, as it comes out of a DALI pipeline."""

    @pipeline_def(batch_size=len(params), num_threads=1, device_id=None, enable_conditionals=True)
    def one_augmentation() -> DataNode:
        pixels, given = fn.external_source(
            source=lambda: ([photo] * len(params), list(params)),
            num_outputs=2,
            dtype=[types.UINT8, augmentation.spec.dtype],
            layout=["HWC", ""],
        )
        return augmentation(pixels, given, SIZE)

    with warnings.catch_warnings(record=True):
        pipeline = one_augmentation()
        (pixels,) = pipeline.run()
    made: Image8 = pixels.as_array()
    return made


@pytest.mark.parametrize("negated", [0, 1])
def test_each_operation_is_as_strong_as_torchvisions(photo: Image8, negated: int) -> None:
    (randaugment,) = make_augmentations(Preprocess(augment="randaugment", randaugment_ops=1))
    assert isinstance(randaugment, RandomOps)
    names = [operation.name for operation in randaugment.suite]
    params = np.array([[[index, MAGNITUDE_BINS - 1, negated]] for index in range(len(names))], np.int32)

    assert set(names) == set(OPERATIONS)
    for name, pixels in zip(names, augmented(randaugment, photo, params), strict=True):
        theirs, magnitude, allowed = OPERATIONS[name]
        signs = [-1 if negated and randaugment.suite[names.index(name)].randomly_negate else 1]
        if name.startswith(("shear", "rotate")):
            signs = [1, -1]  # which way is which differs, and is drawn
        tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)
        expected = [
            _apply_op(tensor, theirs, sign * magnitude, InterpolationMode.BILINEAR, None) for sign in signs
        ]
        difference = min(
            np.abs(pixels - one.permute(1, 2, 0).numpy().astype(float))[3:-3, 3:-3].mean() for one in expected
        )

        assert difference <= allowed, f"{name}: {difference:.2f}"
        if allowed and name != "identity":
            assert np.abs(pixels.astype(float) - photo).mean() > 2 * difference, f"{name} does nothing"


# Largest mean difference of pixels (of 255); see above for the first ones.
TIMMS = {
    "Equalize": 4,
    "Rotate": 3,
    "ShearX": 3,
    "ShearY": 3,
    "TranslateXRel": 3,
    "TranslateYRel": 3,
    "Sharpness": 2,
}


@pytest.mark.parametrize("increasing", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_operation_of_timms_randaugment_is_as_strong_as_timms(
    photo: Image8, monkeypatch: pytest.MonkeyPatch, increasing: bool
) -> None:
    augment = TimmRandAugment(
        Preprocess(augment="timm_randaugment", randaugment_increasing=increasing, randaugment_ops=1)
    )
    names = timms._RAND_INCREASING_TRANSFORMS if increasing else timms._RAND_TRANSFORMS
    cases = [
        (index, level, negated)
        for index in range(len(names))
        for level in (0.9, 7.4, 10)
        for negated in (0, 1)
    ]
    params = np.array([[[i, level / HIGHEST * (BINS - 1), negated]] for i, level, negated in cases], np.int32)

    assert len(augment.suite) == len(names) + 1, "and one that does nothing"
    for (index, level, negated), pixels in zip(cases, augmented(augment, photo, params), strict=True):
        name = names[index].removesuffix("Increasing")
        signs = [-1 if negated else 1]
        if name in ("ShearX", "ShearY", "Rotate", "TranslateXRel", "TranslateYRel"):
            signs = [1, -1]  # which way is which differs, and is drawn
        differences = []
        for sign in signs:
            monkeypatch.setattr(timms, "_randomly_negate", lambda value, sign=sign: sign * value)
            operation = timms.AugmentOp(
                names[index],
                prob=1.0,
                magnitude=level,
                hparams={"img_mean": (GREY, GREY, GREY), "interpolation": Image.Resampling.BILINEAR},
            )
            bits = timms.LEVEL_TO_ARG[names[index]] if name == "Posterize" else None
            kept = bits(level, {})[0] if bits else 1
            # Pillow refuses to keep no bit at all, and did not when timm's recipes were made
            expected = np.asarray(operation(Image.fromarray(photo)), float) if kept else np.zeros_like(photo)
            differences.append(np.abs(pixels - expected)[3:-3, 3:-3].mean())

        assert min(differences) <= TIMMS.get(name, 1.5), (name, level, negated, differences)


def test_timms_magnitudes_are_normally_distributed_and_half_of_the_images_are_left_alone() -> None:
    augment = TimmRandAugment(
        Preprocess(augment="timm_randaugment", randaugment_magnitude=9, randaugment_std=0.5)
    )
    params = augment.make_params(step_draws(0, 0, 8000, augment.draws), SIZE).reshape(-1, 3)
    levels = params[:, 1] / (BINS - 1) * HIGHEST
    theirs = np.clip(np.random.default_rng(0).normal(9, 0.5, 16000), 0, 10).round(1)
    counts = np.bincount(params[:, 0], minlength=16) / len(params)

    for cut in (8.05, 8.55, 9.05, 9.55, 9.95):
        assert (levels <= cut).mean() == pytest.approx((theirs <= cut).mean(), abs=0.02)
    assert levels.max() == 10
    assert counts[15] == pytest.approx(0.5, abs=0.02)
    assert counts[:15] == pytest.approx(np.full(15, 0.5 / 15), abs=0.01)
    assert params[:, 2].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(params.T)[np.triu_indices(3, 1)]).max() < 0.03


def test_colours_change_as_torchvisions_do(photo: Image8) -> None:
    jitter = ColorJitter((0.4, 0.4, 0.4, 0.1))
    params = np.ones((8, 4), np.float32)
    params[:, 3] = 0
    for row, (column, value) in enumerate(
        [(0, 1.4), (0, 0.6), (1, 1.4), (1, 0.6), (2, 1.4), (2, 0.6), (3, 36)]
    ):
        params[row, column] = value
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)

    for (light, contrast, colour, hue), pixels in zip(
        params.tolist(), augmented(jitter, photo, params), strict=True
    ):
        expected = F.adjust_brightness(tensor, light)
        expected = F.adjust_saturation(F.adjust_contrast(expected, contrast), colour)
        expected = F.adjust_hue(expected, float(hue) / 360).permute(1, 2, 0).numpy().astype(float)
        # A hue turned in another space is another hue, of a like distance.
        assert np.abs(pixels - expected).mean() <= (12 if hue else 1.5)


def test_the_parameters_have_the_ranges_of_torchvision() -> None:
    draws = step_draws(0, 0, 5000, 6)
    factors = ColorJitter((0.4, 0.2, 2.0, 0.1)).make_params(draws[:, :4], SIZE)
    (trivial,) = make_augmentations(Preprocess(augment="trivialaugment"))
    assert isinstance(trivial, RandomOps)
    (chosen,) = trivial.make_params(draws[:, :3], SIZE).transpose(1, 0, 2)

    assert factors.min(axis=0) == pytest.approx([0.6, 0.8, 0, -36], abs=0.2)
    assert factors.max(axis=0) == pytest.approx([1.4, 1.2, 3, 36], abs=0.2)
    for column, values in zip(chosen.T, (len(trivial.suite), MAGNITUDE_BINS, 2), strict=True):
        share = np.bincount(column, minlength=values) / len(column)
        assert len(share) == values
        assert share == pytest.approx(np.full(values, 1 / values), abs=0.02), "all are as likely"


def test_rectangles_are_erased_as_torchvision_erases_them(photo: Image8) -> None:
    erasing = Erasing(0.25)
    ours = erasing.make_params(step_draws(0, 0, 8000, erasing.draws), SIZE)
    erased = ours[ours[:, 2] > 0]
    torch.manual_seed(0)
    blank = torch.empty(3, SIZE, SIZE)
    theirs = np.array([RandomErasing.get_params(blank, (0.02, 0.33), (0.3, 3.3))[:4] for _ in range(2000)])
    drawn = np.array([[0, 0, 0, 0], [10, 20, 30, 40]], np.float32)
    untouched, painted = augmented(erasing, photo, drawn)

    assert len(erased) / len(ours) == pytest.approx(0.25, abs=0.02)
    for ours_of, theirs_of in zip(erased.T, theirs.T, strict=True):
        cuts = np.quantile(theirs_of, np.linspace(0.05, 0.95, 10))
        shares = [(np.mean(ours_of <= cut), np.mean(theirs_of <= cut)) for cut in cuts]
        # Kolmogorov-Smirnov distance of 2,000 against 2,000 draws, at a chance of one in a million
        assert max(abs(a - b) for a, b in shares) < 2.7 * np.sqrt(2 / 2000)
    assert (untouched == photo).all()
    assert ((painted != photo).any(axis=2).sum()) == pytest.approx(30 * 40, rel=0.01)
    assert painted[11, 21].tolist() == [124, 116, 104]


@pytest.mark.slow
def test_augmented_images_are_the_same_after_a_restart_and_at_any_number_of_processes(
    dataset: Dataset, tiny: Recipe
) -> None:
    recipe = replace(tiny, preprocess=EVERYTHING)
    unbroken = list(TrainLoader(dataset.train, recipe, ALONE).batches(first_step=0, last_step=4))
    (resumed,) = TrainLoader(dataset.train, recipe, ALONE).batches(first_step=3, last_step=4)
    shares = [
        next(TrainLoader(dataset.train, recipe, world).batches(first_step=3, last_step=4)).images
        for world in (World(rank, 2, torch.device("cpu")) for rank in range(2))
    ]

    assert torch.equal(resumed.images, unbroken[3].images)
    assert torch.equal(torch.cat(shares), unbroken[3].images)
    assert not torch.equal(unbroken[0].images, unbroken[2].images)


def test_all_augmentations_leave_normalised_images_of_the_right_kind(dataset: Dataset, tiny: Recipe) -> None:
    recipe = replace(tiny, preprocess=EVERYTHING)
    (batch,) = TrainLoader(dataset.train, recipe, ALONE).batches(first_step=0, last_step=1)

    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.min() >= -max(MEAN) / min(STD) - 1e-3
    assert batch.images.max() <= (1 - min(MEAN)) / min(STD) + 1e-3
