"""ImageNet's classes, its counts and its subsets', and the labels of its validation images, which only the devkit has.

Sources. imagenet_classes.tsv: the 1,000 wnids in their standard order, which is their sorted order, with WordNet's
lemmas as in timm's imagenet_synset_to_lemma.txt; the first lemmas agree with torchvision's category list.
imagenet_val_labels.txt: positions in it of ILSVRC2012_val_00000001 … 00050000, the same in TensorFlow Datasets and
soumith's valprep.sh.
published_counts.tsv: name of the set, wnid, training and validation images. Imagenette's and Imagewoof's are counted in
fastai/imagenette's noisy_imagenette.csv and noisy_imagewoof.csv, Tiny ImageNet's 200 wnids are those of Stanford's
wnids.txt, with 500 and 50 images each. ImageNet's training images: `cls_count` by label in main_transfer.py of
Brain-Cog-Lab/Transfer-for-DVS. The same 1,000 numbers are `IMG1000_INDEX` in lib/swap_manager.py of omnia-unist/Miro,
in the order of classes of iCaRL (NumPy's permutation of seed 1993). They sum to 1,281,167, lie in the 732 to 1,300 of
Russakovsky et al. 2015 (arXiv:1409.0575, table 2), and with 50 validation images each they are what fast.ai has of its
20 classes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from trainer.dataset._source import Published
from trainer.errors import DataError

IMAGENET = Published(train=1_281_167, val=50_000, classes=1000)


@cache
def imagenet_classes() -> dict[str, str]:
    """The 1,000 wnids of ImageNet in their standard order, with their names."""
    text = (files("trainer.dataset") / "imagenet_classes.tsv").read_text("utf-8")
    return dict(line.split("\t") for line in text.splitlines())


@cache
def published_sets() -> dict[str, dict[str, tuple[int, int]]]:
    """Training and validation images of each class, by name of the published data set and wnid."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    text = (files("trainer.dataset") / "published_counts.tsv").read_text("ascii")
    for name, wnid, train, val in (line.split("\t") for line in text.splitlines()):
        found.setdefault(name, {})[wnid] = int(train), int(val)
    return found


@cache
def imagenet_val_labels() -> tuple[int, ...]:
    """Labels of ILSVRC2012_val_00000001.JPEG and the 49,999 after it: positions in `imagenet_classes`."""
    text = (files("trainer.dataset") / "imagenet_val_labels.txt").read_text("ascii")
    return tuple(map(int, text.split()))


def val_wnids() -> dict[str, str]:
    """Wnid of each validation image, by file name."""
    wnids = tuple(imagenet_classes())
    return {val_name(number): wnids[label] for number, label in enumerate(imagenet_val_labels(), start=1)}


def val_name(number: int) -> str:
    """File name of a validation image; they are numbered from 1."""
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def check_solution(name: str, text: str, wnids: Mapping[str, str]) -> None:
    """Compare Kaggle's LOC_val_solution.csv with the published labels: ImageId, then `WNID x y x y` for each box.

    Args:
        name: of the file, for messages.
        text: its content.
        wnids: of the validation images by file name.

    Raises: DataError if they differ.
    """
    for row in csv.DictReader(text.splitlines()):
        image, boxes = f"{row.get('ImageId')}.JPEG", (row.get("PredictionString") or "").split()
        if not boxes or wnids.get(image) != boxes[0]:
            raise DataError(
                f"{name}: the class of {image} is not that of the published labels; this is not what was published"
            )
