"""The list of forms, which `trainer prepare` offers."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest

from tests.conftest import write_photo
from tests.dataset import published
from trainer.dataset import FORMS, Form

ARGUMENTS = {
    "imagenet": ["train.tar", "val.tar", "--no-md5"],
    "kaggle": ["all.zip"],
    "huggingface": ["shards"],
    "imagenette": ["--size", "320", "--no-md5"],
    "imagewoof": ["--no-md5"],
    "tiny-imagenet": ["--no-md5"],
    "digits": [],
    "folder": ["birds", "--val-fraction", "0.5"],
}
IDENTITIES = {
    "imagenet": ("imagenet", {}),
    "kaggle": ("imagenet", {}),
    "huggingface": ("imagenet", {}),
    "imagenette": ("imagenette", {"size": "320"}),
    "imagewoof": ("imagewoof", {}),
    "tiny-imagenet": ("tiny-imagenet", {}),
    "digits": ("digits", {}),
    "folder": ("birds", {"val_fraction": 0.5, "seed": 0}),
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_identity_of_a_data_set_is_known_without_its_archives_and_is_that_of_its_source(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    parser.add_argument("--form", default=form.name)
    form.add_arguments(parser)
    options = parser.parse_args(ARGUMENTS[form.name])

    name, content = form.identity(options)

    assert (name, dict(content)) == IDENTITIES[form.name]

    archives = dict(zip(("train.tar", "val.tar"), published.imagenet(tmp_path), strict=True))
    archives["all.zip"] = published.kaggle_zip(tmp_path)
    published.huggingface_parquet(tmp_path / "shards")
    for name in ("0.jpg", "1.jpg"):
        write_photo(tmp_path / "birds" / "robin" / name)

    def fetch(archive: str, *endings: str) -> Path:
        return archives.get(archive, archives["all.zip"])

    source = form.source(options, tmp_path / "out", fetch)
    assert (source.name, dict(source.options)) == IDENTITIES[form.name]


def test_no_two_forms_have_the_same_name() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS)
