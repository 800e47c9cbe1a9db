"""Opening a class-folder tree."""

import shutil

import pytest

from tests.conftest import write_photo
from trainer.data import open_dataset
from trainer.errors import DataError


@pytest.fixture
def tree(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "tree")


def test_labels_are_positions_in_the_sorted_class_list(dataset):
    assert dataset.classes == ("cat", "dog")
    assert {
        path.split("/")[0]
        for path, label in zip(dataset.train.paths, dataset.train.labels, strict=True)
        if label == 1
    } == {"dog"}
    assert (len(dataset.train), len(dataset.val)) == (20, 9)


def test_hidden_and_foreign_files_are_no_images_and_no_classes(tree, dataset):
    write_photo(tree / "train" / ".cache" / "0.JPEG")
    write_photo(tree / "train" / "cat" / "._000.JPEG")
    (tree / "val" / "cat" / "notes.txt").write_text("x")
    (tree / "val" / "README").write_text("x")

    assert open_dataset(tree).digest == dataset.digest
    assert open_dataset(tree).train.paths == dataset.train.paths


def test_the_digest_changes_with_the_images(tree, dataset):
    (tree / "train" / "cat" / "000.JPEG").unlink()

    assert open_dataset(tree).digest != dataset.digest


def _remove_val(tree):
    shutil.rmtree(tree / "val")


def _empty_train(tree):
    shutil.rmtree(tree / "train")
    (tree / "train").mkdir()


def _empty_class(tree):
    shutil.rmtree(tree / "train" / "dog")
    (tree / "train" / "dog").mkdir()


def _class_only_in_train(tree):
    shutil.rmtree(tree / "val" / "dog")


def _class_only_in_val(tree):
    write_photo(tree / "val" / "fox" / "0.JPEG")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (shutil.rmtree, "there is no data folder .*trainer prepare"),
        (_remove_val, "has no val/"),
        (_empty_train, "train is empty"),
        (_empty_class, "dog holds no images"),
        (_class_only_in_train, r"train has 1 class folder\(s\) that .*val lacks \(dog\)"),
        (_class_only_in_val, r"val has 1 class folder\(s\) that .*train lacks \(fox\)"),
    ],
)
def test_an_incomplete_tree_is_refused_in_one_sentence(tree, wrong, says):
    wrong(tree)

    with pytest.raises(DataError, match=says):
        open_dataset(tree)
