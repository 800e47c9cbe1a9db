"""What is known about the published data sets: archives, sums, counts and classes.

Sources. ImageNet: MD5 sums as in torchvision.datasets.imagenet, lengths as in TensorFlow Datasets' checksums
(imagenet2012), counts from the ILSVRC 2012 page. imagenet_classes.tsv: the 1,000 WordNet ids in their standard
order, which is their sorted order, with WordNet's lemmas as in timm's imagenet_synset_to_lemma.txt; the first
lemmas agree with torchvision's category list. imagenet_val_labels.txt: positions in it of
ILSVRC2012_val_00000001 … 00050000, the same in TensorFlow Datasets and soumith's valprep.sh. Imagenette and
Imagewoof: torchvision.datasets.imagenette, github.com/fastai/imagenette, and Catalyst for Imagewoof's sums.
Tiny ImageNet: cs231n.stanford.edu; its MD5 as in Avalanche and elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Published:
    """One published data set as it should come out."""

    name: str
    train: int  # images
    val: int
    classes: int


@dataclass(frozen=True)
class Archive:
    """One published file."""

    name: str
    md5: str
    bytes: int | None = None
    url: str | None = None


IMAGENET = Published("imagenet", train=1_281_167, val=50_000, classes=1000)
IMAGENET_TRAIN = Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147_897_477_120)
IMAGENET_VAL = Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6_744_924_160)
IMAGENET_DEVKIT = Archive("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")

IMAGENETTE = Published("imagenette", train=9_469, val=3_925, classes=10)
IMAGEWOOF = Published("imagewoof", train=9_025, val=3_929, classes=10)
_FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
FASTAI: Mapping[tuple[str, str], Archive] = {
    (name, size): Archive(file, md5, length, _FASTAI + file)
    for name, size, file, md5, length in (
        ("imagenette", "full", "imagenette2.tgz", "fe2fc210e6bb7c5664d602c3cd71e612", 1_557_161_267),
        ("imagenette", "320", "imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3", 341_663_724),
        ("imagenette", "160", "imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412", 99_003_388),
        ("imagewoof", "full", "imagewoof2.tgz", "9aafe18bcdb1632c4249a76c458465ba", None),
        ("imagewoof", "320", "imagewoof2-320.tgz", "0f46d997ec2264e97609196c95897a44", None),
        ("imagewoof", "160", "imagewoof2-160.tgz", "3d200a7be99704a0d7509be2a9fbfe15", None),
    )
}

TINY_IMAGENET = Published("tiny-imagenet", train=100_000, val=10_000, classes=200)
TINY_IMAGENET_ZIP = Archive(
    "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", 248_100_043,
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)  # fmt: skip


@cache
def imagenet_classes() -> dict[str, str]:
    """The 1,000 WordNet ids of ImageNet in their standard order, with their names."""
    text = (files("trainer.dataset") / "imagenet_classes.tsv").read_text("utf-8")
    return dict(line.split("\t") for line in text.splitlines())


@cache
def imagenet_val_labels() -> tuple[int, ...]:
    """The class of ILSVRC2012_val_00000001.JPEG and the 49,999 after it."""
    text = (files("trainer.dataset") / "imagenet_val_labels.txt").read_text("ascii")
    return tuple(map(int, text.split()))
