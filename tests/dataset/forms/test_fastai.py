"""Imagenette and Imagewoof."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataset import published
from trainer.dataset import fastai


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
def test_the_images_come_out_byte_for_byte_in_their_classes(tmp_path: Path, name: str) -> None:
    archive = published.fastai(tmp_path, name=name)

    published.check_images_come_out_byte_for_byte(fastai(name, archive, verify=False), tmp_path / "out")
