"""What a data set consists of, and opening it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_photo
from trainer.dataset import Dataset, folder, open_dataset, prepare
from trainer.dataset._manifest import _digest
from trainer.errors import DataError


@pytest.fixture
def tree(photos: Path, tmp_path: Path) -> Path:
    """Class folders as users have them: without a manifest."""
    root = shutil.copytree(photos, tmp_path / "photos")
    for file in root.glob("*.*"):
        file.unlink()
    return root


def indexed(root: Path) -> Dataset:
    prepare(folder(root, out=root), root)
    return open_dataset(root)


def test_labels_are_positions_in_the_sorted_class_list(dataset: Dataset) -> None:
    assert dataset.classes == ("cat", "dog")
    dogs = {dataset.train.name(int(index)).split("/")[1] for index in np.flatnonzero(dataset.train.labels)}
    assert dogs == {"dog"}
    assert (len(dataset.train), len(dataset.val)) == (20, 9)


def test_sizes_are_known_without_opening_a_file(dataset: Dataset) -> None:
    assert dataset.train.name(3) == "train/cat/006.JPEG"
    assert dataset.train.sizes[3].tolist() == [66, 84]


def test_hidden_and_foreign_files_are_no_images_and_no_classes(tree: Path, dataset: Dataset) -> None:
    write_photo(tree / "train" / ".cache" / "0.JPEG")
    write_photo(tree / "train" / "cat" / "._000.JPEG")
    (tree / "val" / "cat" / "notes.txt").write_text("x")
    (tree / "val" / "README").write_text("x")

    assert indexed(tree).digest == dataset.digest


def test_what_appears_in_the_folders_later_changes_nothing(tree: Path, dataset: Dataset) -> None:
    indexed(tree)
    write_photo(tree / "train" / "ant" / "0.JPEG")

    assert open_dataset(tree).classes == ("cat", "dog")


def test_the_digest_changes_with_the_images(tree: Path, dataset: Dataset) -> None:
    (tree / "train" / "cat" / "000.JPEG").unlink()

    assert indexed(tree).digest != dataset.digest


def test_the_digest_of_the_validation_images_changes_with_them_and_the_classes_alone(
    tree: Path, dataset: Dataset
) -> None:
    before = dataset.val_digest
    next((tree / "train").rglob("*.JPEG")).unlink()
    assert indexed(tree).val_digest == before

    next((tree / "val").rglob("*.JPEG")).write_bytes(next((tree / "train").rglob("*.JPEG")).read_bytes())
    assert indexed(tree).val_digest != before


def test_a_folder_without_a_manifest_is_refused_with_the_command_that_writes_one(tree: Path) -> None:
    with pytest.raises(DataError, match=rf"no manifest; write it with: trainer prepare {tree}$"):
        open_dataset(tree)


def test_a_preparation_that_has_not_ended_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / ".preparing").mkdir()

    with pytest.raises(DataError, match="is not complete"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_index_is_refused(tree: Path, damage: str) -> None:
    indexed(tree)
    (index,) = tree.glob("index-*.npy")
    data = bytearray(index.read_bytes())
    data[-40] ^= 1
    damaged: dict[str, bytes] = {"flipped": bytes(data), "cut": bytes(data[:-100]), "gone": b""}
    index.write_bytes(damaged[damage])

    with pytest.raises(DataError, match=r"is damaged|cannot be read"):
        open_dataset(tree)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "digest": 5, "classes": 3}']
)
def test_a_dataset_json_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)

    with pytest.raises(DataError, match="manifest"):
        open_dataset(tmp_path)


def test_a_newer_format_is_refused(tree: Path) -> None:
    indexed(tree)
    metadata = json.loads((tree / "dataset.json").read_text())
    (tree / "dataset.json").write_text(json.dumps({**metadata, "format": 2}))

    with pytest.raises(DataError, match="newer trainer"):
        open_dataset(tree)


def _remove_val(tree: Path) -> None:
    shutil.rmtree(tree / "val")


def _empty_train(tree: Path) -> None:
    shutil.rmtree(tree / "train")
    (tree / "train").mkdir()


def _class_only_in_train(tree: Path) -> None:
    shutil.rmtree(tree / "val" / "dog")


def _class_only_in_val(tree: Path) -> None:
    write_photo(tree / "val" / "fox" / "0.JPEG")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (shutil.rmtree, "there is no folder"),
        (_remove_val, "has no train/ and val/.*--val-fraction"),
        (_empty_train, "not a single image for train"),
        (_class_only_in_train, r"train has images of 1 class\(es\) that val lacks \(dog\)"),
        (_class_only_in_val, r"val has images of 1 class\(es\) that train lacks \(fox\)"),
    ],
)
def test_an_incomplete_tree_is_refused_in_one_sentence(
    tree: Path, wrong: Callable[[Path], None], says: str
) -> None:
    wrong(tree)

    with pytest.raises(DataError, match=says):
        indexed(tree)
    assert not (tree / "dataset.json").exists()


def entry(name: str, value: object) -> Callable[[dict[str, object]], None]:
    def change(metadata: dict[str, object]) -> None:
        metadata[name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        entry("name", None),
        entry("digest", 5),
        entry("classes", ["dog", "cat"]),
        entry("counts", {"train": 20.0, "val": 9.0}),
        entry("counts", {"train": -1, "val": 30}),
        entry("counts", {"train": 19, "val": 10}),
        entry("counts", {"train": 9, "val": 20}),
        entry("skipped", [["a"]]),
        entry("ignored", None),
        entry("class_names", ["cat"]),
        entry("options", "none"),
        entry("published", [1]),
        entry("images", None),
        entry("images", ["val/{name}"]),
        entry("images", {"test": "test/{name}"}),
        entry("images", {"val": 5}),
        entry("images", {"root": "elsewhere"}),
        entry("images", {"root": "/data/../etc"}),
        entry("images", {"root": "/data\0"}),
        entry("images", {"val": "../{name}"}),
        entry("images", {"val": "a/../../{class}/{name}"}),
        entry("images", {"val": "/etc/{name}"}),
        entry("images", {"val": "./{name}"}),
        entry("images", {"val": "a//{name}"}),
        entry("images", {"val": "{class}/{name}/.."}),
        entry("images", {"val": "{class}{name}"}),
        entry("images", {"val": "{class}/{class}/{name}"}),
        entry("images", {"val": "{name}\n"}),
        entry("images", {"val": "val/images"}),
        entry("images", {"val": "{class.__init__}/{name}"}),
        entry("images", {"val": ""}),
        lambda metadata: metadata.pop("skipped"),
    ],
)
def test_a_manifest_that_was_edited_by_hand_is_refused(
    tree: Path, change: Callable[[dict[str, object]], object]
) -> None:
    indexed(tree)
    metadata = json.loads((tree / "dataset.json").read_text())
    change(metadata)
    (tree / "dataset.json").write_text(json.dumps(metadata))

    with pytest.raises(DataError, match=r"remove its? .*prepare"):
        open_dataset(tree)


def test_a_manifest_of_brackets_alone_or_that_is_a_pipe_is_refused(tree: Path) -> None:
    for make in (lambda path: path.write_text("[" * 100_000), os.mkfifo):
        (tree / "dataset.json").unlink(missing_ok=True)
        make(tree / "dataset.json")

        with pytest.raises(DataError, match=r"dataset\.json (is not a manifest|cannot be read: it is not a)"):
            open_dataset(tree)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", b"../../home/letters.txt"),
        ("path", b"train/../../x.JPEG"),
        ("path", b".."),
        ("path", b"/etc/passwd"),
        ("path", b"a\0b"),
        ("path", b""),
        ("label", 7),
        ("width", 0),
        ("bytes", 0),
    ],
)
def test_an_index_that_lists_what_no_data_set_has_is_refused(
    tree: Path, field: str, value: bytes | int
) -> None:
    """`--quarantine` would move, and training would read, whatever a stranger's manifest names."""
    made = indexed(tree)
    (index,) = tree.glob("index-*.npy")
    rows = np.load(index)
    rows[field][0] = value
    digest = _digest(made.classes, rows)
    index.unlink()
    np.save(tree / f"index-{digest[:16]}.npy", rows)
    (tree / "dataset.json").write_text(json.dumps({**made.metadata, "digest": digest}))

    with pytest.raises(DataError, match=r"its (index|classes)"):
        open_dataset(tree)


def test_an_index_with_a_header_that_is_not_python_is_refused(tree: Path) -> None:
    indexed(tree)
    (index,) = tree.glob("index-*.npy")
    data = index.read_bytes()
    index.write_bytes(data[:10] + b"(" * 100 + data[110:])

    with pytest.raises(DataError, match="cannot be read"):
        open_dataset(tree)


def test_images_that_lie_elsewhere_are_at_class_and_name_and_nowhere_else(tree: Path) -> None:
    """`root / "/etc/x"` would be outside."""
    made = indexed(tree)
    (index,) = tree.glob("index-*.npy")

    def with_path(path: bytes) -> None:
        rows = np.load(index)
        rows["path"][0] = path
        digest = _digest(made.classes, rows)
        np.save(tree / f"index-{digest[:16]}.npy", rows)
        images = {"root": str(tree), "train": "{class}/{name}"}
        (tree / "dataset.json").write_text(json.dumps({**made.metadata, "digest": digest, "images": images}))

    for path in (b"train/1.JPEG", b"1.JPEG", b"train///etc/x", b"train/cat//etc/x"):
        with_path(path)
        with pytest.raises(DataError, match="its index has paths without a class folder"):
            open_dataset(tree)

    with_path(b"train/cat/a/b")
    assert open_dataset(tree).train.files([0]) == [f"{tree}/cat/a/b".encode()]
