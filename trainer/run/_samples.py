"""Validation images that go with a model, to try it on."""

from __future__ import annotations

import numpy as np

from trainer.dataloader import read_image
from trainer.dataset import Split, without_texts
from trainer.tracking import Sample

SAMPLES = 8


def samples_of(val: Split) -> list[Sample]:
    """Some validation images, spread over the classes.

    Raises: DataError naming an image that is not as it was prepared.
    """
    chosen = np.linspace(0, len(val) - 1, min(SAMPLES, len(val))).astype(int).tolist()
    return [
        Sample(
            name=val.path(index).name,
            jpeg=without_texts(read_image(val, index)),
            label=int(val.labels[index]),
        )
        for index in chosen
    ]
