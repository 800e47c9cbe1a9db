"""MD5 of archives."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.dataset import published
from trainer.dataset import fastai, open_dataset, prepare
from trainer.errors import DataError


def test_a_wrong_byte_is_found_by_its_md5_and_the_images_are_no_data_set(tmp_path: Path) -> None:
    archive = published.fastai(tmp_path)
    source = fastai("imagenette", archive, verify=False)
    right = hashlib.md5(archive.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"its MD5 is {right}, not {'0' * 32}"):
        prepare(replace(source, archives={archive: "0" * 32}), tmp_path / "out")
    with pytest.raises(DataError, match="not complete"):
        open_dataset(tmp_path / "out")

    metadata = prepare(replace(source, archives={archive: right}), tmp_path / "out").metadata
    assert metadata["archives"] == {"imagenette2-320.tgz": right}


def test_the_md5_of_the_archive_is_computed_while_it_is_read(tmp_path: Path) -> None:
    archive = published.fastai(tmp_path)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    source = replace(fastai("imagenette", archive, verify=False), archives={archive: md5})

    assert prepare(source, tmp_path / "out").metadata["archives"] == {archive.name: md5}
