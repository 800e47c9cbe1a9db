"""What timm is told of a model: its network, its weights by name, and the same preprocessing."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.export.conftest import photo
from trainer.export import to_input
from trainer.model import build
from trainer.publish._timm import LAYERS, crop_pct, timm_config, unique_names
from trainer.tracking import ModelInfo

PREPROCESS = {"val_resize": 73, "val_size": 64, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
INFO = ModelInfo("resnet18", ("n1", "n2"), ("cat", "dog"), PREPROCESS, "digits", 0.5, 1.0, "d" * 64)


@pytest.mark.parametrize("architecture", LAYERS)
def test_timm_has_the_network_with_the_same_names_and_shapes_of_weights(architecture: str) -> None:
    with torch.device("meta"):
        ours = build(architecture, 7)
        theirs = timm.create_model(architecture, num_classes=7)
    first, classifier = LAYERS[architecture]

    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    assert (theirs.default_cfg["first_conv"], theirs.default_cfg["classifier"]) == (first, classifier)
    assert theirs.num_features == ours.state_dict()[f"{classifier}.weight"].shape[1]


@pytest.mark.parametrize(
    "architecture", ["resnet18", "resnet50d", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_timms_network_answers_as_ours(architecture: str) -> None:
    torch.manual_seed(0)
    ours = build(architecture, 7).eval().to(memory_format=torch.contiguous_format)
    theirs = timm.create_model(architecture, num_classes=7).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)

    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), ours(images), rtol=0, atol=0)


@given(resize=st.integers(1, 1024), data=st.data())
def test_timm_finds_the_size_of_the_resize_again(resize: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, resize))

    assert math.floor(size / crop_pct(size, resize)) == resize
    assert 0 < crop_pct(size, resize) <= 1


@pytest.mark.parametrize(("size", "resize"), [(64, 73), (32, 32), (224, 256), (57, 64)])
@pytest.mark.parametrize("shape", [(90, 70), (50, 301), (224, 224)])
def test_timms_transform_is_our_preprocessing(size: int, resize: int, shape: tuple[int, int]) -> None:
    preprocess = {**PREPROCESS, "val_size": size, "val_resize": resize}
    info = ModelInfo("resnet18", ("n1", "n2"), ("cat", "dog"), preprocess, "digits", 0.5, 1.0, "d" * 64)
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm_config(info, 512, None)["pretrained_cfg"])
    jpeg = photo(1, *shape)
    theirs = timm.data.create_transform(**config)(Image.open(io.BytesIO(jpeg)))

    np.testing.assert_allclose(theirs.numpy(), to_input(jpeg, preprocess), rtol=0, atol=1e-6)


def test_classes_of_one_name_are_told_apart_by_their_ids() -> None:
    assert unique_names(("n02012849", "n03126707", "n1"), ("crane", "crane", "gnu \udcff")) == [
        "crane (n02012849)",
        "crane (n03126707)",
        "gnu ?",
    ]
