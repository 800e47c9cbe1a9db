"""Validation images that go with a model, to try it on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from trainer.dataloader import read_image
from trainer.dataset import Split, shown, without_texts
from trainer.errors import DataError
from trainer.export import to_input
from trainer.tracking import Sample

SAMPLES = 8


def samples_of(val: Split, preprocess: Mapping[str, Any]) -> list[Sample]:
    """Some validation images, spread over the classes.

    Where Pillow, which bundles are made with, cannot read an image that DALI decodes, the next one is taken instead.

    Args:
        val: the validation images.
        preprocess: the model's preprocessing, see `to_input`.

    Raises: DataError naming an image that is not as it was prepared, or if Pillow reads none.
    """
    spread = np.linspace(0, len(val) - 1, min(SAMPLES, len(val))).astype(int).tolist()
    seen: set[int] = set()
    samples: list[Sample] = []
    refused = ""
    for first in spread:
        for index in chain(range(first, len(val)), range(first)):
            if index in seen:
                continue
            seen.add(index)
            jpeg = without_texts(read_image(val, index))
            try:
                to_input(jpeg, preprocess)
            except (OSError, SyntaxError, ValueError) as error:
                refused = refused or f"{shown(val.name(index))}: {error}"
                continue
            samples.append(Sample(val.path(index).name, jpeg, int(val.labels[index])))
            break
    if not samples:
        raise DataError(
            f"Pillow, which a bundle is made with, can read none of the {len(val):,} validation images ({refused}); "
            "restore them, or put others in their place"
        )
    return samples
