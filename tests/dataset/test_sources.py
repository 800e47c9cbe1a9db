"""Every published form becomes the data set it should."""

import hashlib
import itertools
import shutil

import pytest

from tests.conftest import write_photo
from tests.dataset import published
from tests.dataset.published import GROUPS, images, jpeg, tar_of, val_names, zip_of
from trainer.dataset import (
    fastai,
    folder,
    imagenet,
    imagenet_classes,
    imagenet_val_labels,
    kaggle,
    open_dataset,
    prepare,
    tiny_imagenet,
)
from trainer.errors import DataError

FORMS = {
    "imagenet": lambda where: imagenet(published.imagenet(where), verify=False),
    "imagenet, the other way round": lambda where: imagenet(published.imagenet(where)[::-1], verify=False),
    "imagenet with devkit": lambda where: imagenet(
        published.imagenet(where), devkit=published.devkit(where), verify=False
    ),
    "kaggle's zip": lambda where: kaggle(published.kaggle_zip(where)),
    "the torrent's tar.gz": lambda where: kaggle(published.kaggle_tar(where)),
    "imagenette": lambda where: fastai("imagenette", published.fastai(where), verify=False),
    "imagewoof": lambda where: fastai("imagewoof", published.fastai(where, name="imagewoof"), verify=False),
}


def written(root):
    """Every image below `root`, by class and name."""
    return {
        part: {
            str(path.relative_to(root / part)): path.read_bytes() for path in (root / part).rglob("*.JPEG")
        }
        for part in ("train", "val")
    }


def wanted():
    train, val = images()
    return {
        "train": {f"{name.split('_')[0]}/{name}": data for name, data in train.items()},
        "val": {f"{val_names()[name]}/{name}": data for name, data in val.items()},
    }


@pytest.mark.parametrize("form", FORMS)
def test_the_images_come_out_byte_for_byte_in_their_classes(tmp_path, form):
    prepared = prepare(FORMS[form](tmp_path), tmp_path / "out")

    assert prepared.made
    assert written(tmp_path / "out") == wanted()
    made = open_dataset(tmp_path / "out")
    assert made.classes == GROUPS
    assert made.class_names[0] == "tench, Tinca tinca"
    assert (len(made.train), len(made.val)) == (12, 6)
    for split in (made.train, made.val):
        for index in range(len(split)):
            assert split.path(index).parent.name == GROUPS[split.labels[index]]
            assert split.sizes[index].tolist() == [60, 45]
            assert split.rows["bytes"][index] == split.path(index).stat().st_size
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[1:] == [
        f"index-{made.digest[:16]}.npy",
        "train",
        "val",
    ]


def test_tiny_imagenet_takes_validation_labels_from_its_annotations(tmp_path):
    prepare(tiny_imagenet(published.tiny_imagenet(tmp_path), verify=False), tmp_path / "out")

    made = open_dataset(tmp_path / "out")
    assert (made.name, made.classes) == ("tiny-imagenet", GROUPS)
    assert made.class_names == ("tench, Tinca tinca", *GROUPS[1:])
    assert (len(made.train), len(made.val)) == (12, 6)
    assert {made.val.path(index).name: GROUPS[made.val.labels[index]] for index in range(6)} == {
        f"val_{number}.JPEG": GROUPS[number % 3] for number in range(6)
    }


def test_the_shipped_facts_are_those_of_imagenet():
    classes = tuple(imagenet_classes())

    assert len(classes) == 1000
    assert list(classes) == sorted(classes)
    assert imagenet_classes()["n07753592"] == "banana"
    assert len(imagenet_val_labels()) == 50_000
    assert all(imagenet_val_labels().count(label) == 50 for label in (0, 499, 999))
    # As torchvision's documentation and the devkit have the first ones.
    assert [classes[label] for label in imagenet_val_labels()[:3]] == ["n01751748", "n09193705", "n02105855"]


def test_the_classes_have_torchvisions_order():
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    names = [name.split(",")[0].lower() for name in imagenet_classes().values()]
    others = [
        (ours, theirs)
        for ours, theirs in zip(names, map(str.lower, _IMAGENET_CATEGORIES), strict=True)
        if ours != theirs
    ]
    assert others == [("crane", "crane bird"), ("maillot", "maillot tank suit")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: [("n01440764.tar", b""), ("n99999999.tar", b"")], "n99999999.tar.* is not the tar of one"),
        (lambda: [("n01440764.tar", tar_of([("n02102040_1.JPEG", jpeg(1))]))], "not an image of that class"),
        (lambda: [("n01440764.tar", tar_of([("../../x.JPEG", jpeg(1))]))], "not an image of that class"),
        (lambda: [("n01440764.tar", tar_of([("/etc/x.JPEG", jpeg(1))]))], "not an image of that class"),
        (
            lambda: [
                ("n01440764.tar", tar_of([("n01440764_1.JPEG", jpeg(1)), ("n01440764_1.JPEG", jpeg(2))]))
            ],
            "n01440764_1.JPEG twice",
        ),
    ],
)
def test_a_tar_that_is_not_imagenets_is_refused(tmp_path, change, says):
    train, val = published.imagenet(tmp_path)
    files = change()
    train.write_bytes(tar_of([(name, data or tar_of([])) for name, data in files]))

    with pytest.raises(DataError, match=says):
        prepare(imagenet([train, val], verify=False), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [train.name, val.name, "out"]


def test_two_tars_without_classes_are_refused(tmp_path):
    _, val = published.imagenet(tmp_path)

    with pytest.raises(DataError, match="neither"):
        imagenet([val, val], verify=False)


def test_only_the_published_archives_are_taken_unless_told_otherwise(tmp_path):
    with pytest.raises(
        DataError, match=r"the published ILSVRC2012_img_train.tar has 147,897,477,120.*--no-md5"
    ):
        imagenet(published.imagenet(tmp_path))


def test_a_wrong_byte_is_found_by_the_sum_and_the_images_are_no_data_set(tmp_path, monkeypatch):
    archive = published.fastai(tmp_path)
    source = fastai("imagenette", archive, verify=False)
    from dataclasses import replace

    right = hashlib.md5(archive.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"its MD5 is {right}, not {'0' * 32}"):
        prepare(replace(source, sums={archive: "0" * 32}), tmp_path / "out")
    with pytest.raises(DataError, match="not complete"):
        open_dataset(tmp_path / "out")

    about = prepare(replace(source, sums={archive: right}), tmp_path / "out").about
    assert about["archives"] == {"imagenette2-320.tgz": right}


def test_kaggles_own_labels_must_agree_with_the_published_ones(tmp_path):
    archive = published.kaggle_zip(tmp_path)
    names = val_names()
    boxes = "".join(f"{name[:-5]},n02102040 1 2 3 4\n" for name in names)
    zip_of(archive, [("LOC_val_solution.csv", f"ImageId,PredictionString\n{boxes}".encode())])

    with pytest.raises(DataError, match="says otherwise of ILSVRC2012_val"):
        prepare(kaggle(archive), tmp_path / "out")


@pytest.fixture
def own(tmp_path):
    """A user's folder: one folder a class, no split."""
    for group, count in (("ant", 10), ("bee", 20), ("wasp, social", 5)):
        for number in range(count):
            write_photo(tmp_path / "own" / group / f"{number:02d} é.jpg", seed=number)
    return tmp_path / "own"


def test_a_folder_is_split_in_place_stratified_and_seeded(own):
    prepare(folder(own, out=own, val_fraction=0.2), own)

    made = open_dataset(own)
    assert made.classes == ("ant", "bee", "wasp, social")
    assert [(made.val.labels == label).sum() for label in range(3)] == [2, 4, 1]
    assert [(made.train.labels == label).sum() for label in range(3)] == [8, 16, 4]
    assert made.val.path(0).is_file()
    assert not set(map(made.val.name, range(7))) & set(map(made.train.name, range(28)))


def test_the_split_follows_from_the_seed_and_from_nothing_else(own, tmp_path):
    def split(root, seed):
        copy = tmp_path / f"copy{next(counter)}"
        prepare(folder(root, out=copy, val_fraction=0.2, seed=seed), copy)
        made = open_dataset(copy)
        return {made.val.name(index) for index in range(len(made.val))}

    counter = itertools.count()
    first = split(own, 0)
    assert split(own, 0) == first
    assert split(own, 1) != first
    shutil.rmtree(own / "bee")
    assert {name for name in first if "bee" not in name} == split(own, 0)


def test_files_that_are_no_images_are_left_out_and_named(own):
    import os

    (own / "ant" / "empty.jpg").touch()
    (own / "ant" / "gif.jpg").write_bytes(b"GIF89a......")
    os.mkfifo(own / "ant" / "fifo.jpg")
    (own / "ant" / "dangling.jpg").symlink_to("nowhere")
    (own / "ant" / "folder.jpg").mkdir()
    bomb = bytearray(jpeg(0))
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    (own / "ant" / "bomb.jpg").write_bytes(bomb)

    about = prepare(folder(own, out=own, val_fraction=0.2), own).about

    assert dict(about["left_out"]) == {
        "ant/empty.jpg": "is empty",
        "ant/gif.jpg": "is neither a JPEG nor a PNG",
        "ant/fifo.jpg": "is not a regular file",
        "ant/dangling.jpg": "cannot be read: No such file or directory",
        "ant/folder.jpg": "is not a regular file",
        "ant/bomb.jpg": "claims 65500 x 65500 pixels; a bomb, or no photo to train on",
    }
    assert sum(about["counts"].values()) == 35
