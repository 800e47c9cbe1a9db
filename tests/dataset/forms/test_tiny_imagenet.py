"""Tiny ImageNet as Stanford publishes it."""

from __future__ import annotations

from pathlib import Path

from tests.dataset import published
from tests.dataset.published import WNIDS
from trainer.dataset import open_dataset, prepare, tiny_imagenet


def test_tiny_imagenet_takes_validation_labels_from_its_annotations(tmp_path: Path) -> None:
    prepare(tiny_imagenet(published.tiny_imagenet(tmp_path), verify=False), tmp_path / "out")

    made = open_dataset(tmp_path / "out")
    assert (made.name, made.classes) == ("tiny-imagenet", WNIDS)
    assert made.class_names == ("tench, Tinca tinca", *WNIDS[1:])
    assert (len(made.train), len(made.val)) == (12, 6)
    assert {made.val.path(index).name: WNIDS[made.val.labels[index]] for index in range(6)} == {
        f"val_{number}.JPEG": WNIDS[number % 3] for number in range(6)
    }
