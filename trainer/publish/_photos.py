"""Whose photos may be handed on: ImageNet's never, the digits' always, all others' if their owner says so."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainer.errors import ConfigError

WNID = re.compile(r"n\d{8}")  # WordNet's, by which ImageNet and its subsets call their classes
FREE = {"digits": tuple("0123456789")}  # data sets that anybody may hand on, with their classes: CC BY 4.0


def of_imagenet(class_ids: Sequence[str]) -> bool:
    """Whether the images of these classes are, or may be, ImageNet's."""
    return any(WNID.fullmatch(class_id) for class_id in class_ids)


def may_show(class_ids: Sequence[str], dataset: str | None, *, asked: bool) -> bool:
    """Whether photos of these classes may be published.

    Args:
        class_ids: class folders in label order.
        dataset: name of the data set, if it is known.
        asked: the user says that they may be.

    Raises: ConfigError if they must not be, whoever asks.
    """
    if of_imagenet(class_ids):
        if asked:
            raise ConfigError(
                "the photos of this model are ImageNet's, whose terms forbid to hand them on; leave out --with-photos"
            )
        return False
    return asked or (dataset is not None and FREE.get(dataset) == tuple(class_ids))
