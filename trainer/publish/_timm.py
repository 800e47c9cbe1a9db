"""What timm, transformers and torchvision load in one line: `config.json` beside `model.safetensors`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from trainer.tracking import ModelInfo

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# First convolution and classifier of what timm has under the same name, with the same names of weights.
_RESNET, _DENSENET = ("conv1", "fc"), ("features.conv0", "classifier")
LAYERS = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _RESNET),
    "resnet50d": ("conv1.0", "fc"),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"), _RESNET),
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), _RESNET),
    **dict.fromkeys(("densenet121", "densenet161", "densenet169", "densenet201"), _DENSENET),
}
TIMM_ALONE = {"resnet50d"}  # torchvision has no such network


def known_to_timm(architecture: str) -> bool:
    """Whether timm builds this network under this name, for weights as they are here."""
    return architecture in LAYERS


def timm_config(info: ModelInfo, features: int, licence: str | None) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        info: the model.
        features: inputs of its classifier.
        licence: the Hub's name of it, if there is one.

    Source: timm.models.save_for_hf.
    """
    first, classifier = LAYERS[info.architecture]
    size, names = info.preprocess["val_size"], unique_names(info.class_ids, info.classes)
    return {
        "architecture": info.architecture,
        "num_classes": len(names),
        "num_features": features,
        "global_pool": "avg",
        "label_names": names,  # what transformers answers with
        "label_descriptions": dict(zip(names, info.class_ids, strict=True)),
        "pretrained_cfg": {
            "num_classes": len(names),
            "input_size": [3, size, size],
            "pool_size": None,
            "crop_pct": crop_pct(size, info.preprocess["val_resize"]),
            "crop_mode": "center",
            "interpolation": "bilinear",
            "fixed_input_size": False,
            "mean": list(info.preprocess["mean"]),
            "std": list(info.preprocess["std"]),
            "first_conv": first,
            "classifier": classifier,
            **({"license": licence} if licence else {}),
        },
    }


def crop_pct(size: int, resize: int) -> float:
    """The share of which timm makes the shorter side again: `floor(size / crop_pct)` is `resize`, in pixels."""
    share = size / resize
    while math.floor(size / share) < resize:  # by a rounding
        share = math.nextafter(share, 0.0)
    return share


def unique_names(class_ids: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Names of the classes in words; ImageNet has two kinds of crane: with their ids where one name is not enough."""
    classes = [name.encode("utf-8", "replace").decode() for name in classes]
    often = Counter(classes)
    return [
        name if often[name] == 1 else f"{name} ({class_id})"
        for class_id, name in zip(class_ids, classes, strict=True)
    ]
