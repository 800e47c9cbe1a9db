"""ImageNet as one archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset import published
from tests.dataset.published import val_names, zip_of
from trainer.dataset import kaggle, prepare
from trainer.errors import DataError


@pytest.mark.parametrize("archive", [published.kaggle_zip, published.kaggle_tar], ids=["zip", "tar.gz"])
def test_the_images_come_out_byte_for_byte_in_their_classes(
    tmp_path: Path, archive: Callable[[Path], Path]
) -> None:
    published.check_images_come_out_byte_for_byte(kaggle(archive(tmp_path)), tmp_path / "out")


def test_kaggles_own_labels_must_agree_with_the_published_ones(tmp_path: Path) -> None:
    archive = published.kaggle_zip(tmp_path)
    names = val_names()
    boxes = "".join(f"{name[:-5]},n02102040 1 2 3 4\n" for name in names)
    zip_of(archive, [("LOC_val_solution.csv", f"ImageId,PredictionString\n{boxes}".encode())])

    with pytest.raises(DataError, match=r"the class of ILSVRC2012_val.* is not that of the published labels"):
        prepare(kaggle(archive), tmp_path / "out")
