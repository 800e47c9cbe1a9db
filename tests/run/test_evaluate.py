"""A model is measured on the classes it knows: the same folders, whatever they are called in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import write_photo
from trainer.dataset import folder, open_dataset, prepare
from trainer.errors import DataError
from trainer.run import EvaluateOptions, evaluate_model, export_model


def measured(model: Path, data: Path, runs: Path) -> int:
    result = evaluate_model(EvaluateOptions(model=str(model), data=data, runs=runs, device="cpu"))
    assert result is not None
    return result.num_images


def test_a_run_folder_a_checkpoint_and_a_bundle_refuse_as_many_other_classes(
    run: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        for kind in ("xylophone", "zebra"):
            write_photo(tmp_path / "other" / split / kind / "0.JPEG")
    prepare(folder(tmp_path / "other", out=tmp_path / "other"), tmp_path / "other")
    bundle = export_model(str(run), tmp_path / "bundle", runs=run.parent).folder

    for model in (run, run / "checkpoints" / "best.pt", bundle):
        with pytest.raises(DataError, match=r"knows 2 classes \(cat …\) and .* has 2 \(xylophone …\)"):
            measured(model, tmp_path / "other", run.parent)


def test_classes_are_the_same_where_only_the_words_for_them_differ(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    """As ImageNet from Kaggle's archive, which has words, and from its folders, which have none."""
    data = shutil.copytree(photos, tmp_path / "worded")
    manifest = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(
        json.dumps({**manifest, "class_names": {"cat": "tabby", "dog": "hound"}})
    )
    assert open_dataset(data).class_names == ("tabby", "hound")
    bundle = export_model(str(run), tmp_path / "bundle", runs=run.parent).folder

    for model in (run, bundle):
        assert measured(model, data, run.parent) == 9
