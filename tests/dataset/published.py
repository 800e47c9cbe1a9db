"""Small archives in the layouts of the published data sets, and the images that must come out."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from trainer.dataset import Source, imagenet_classes, imagenet_val_labels, open_dataset, prepare

# The first, one in between and the last of ImageNet's classes.
WNIDS = ("n01440764", "n02102040", "n15075141")


@cache
def jpeg(seed: int, *, width: int = 60, height: int = 45) -> bytes:
    """A small photo, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def val_names(wnids: Iterable[str] = WNIDS, *, each: int = 2) -> dict[str, str]:
    """Names of the first validation images of some classes, with their wnid."""
    classes = tuple(imagenet_classes())
    found: dict[str, str] = {}
    for wnid in wnids:
        numbers = [n for n, label in enumerate(imagenet_val_labels(), 1) if classes[label] == wnid]
        found |= {f"ILSVRC2012_val_{number:08d}.JPEG": wnid for number in numbers[:each]}
    return dict(sorted(found.items()))


def train_names(*, each: int = 4) -> dict[str, str]:
    return {f"{wnid}_{7 * number + 18}.JPEG": wnid for wnid in WNIDS for number in range(each)}


def images(*, each: int = 4) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Training and validation images by name; no two are the same."""
    train = {name: jpeg(seed) for seed, name in enumerate(train_names(each=each))}
    val = {name: jpeg(10_000 + seed) for seed, name in enumerate(val_names())}
    return train, val


def tar_of(files: Iterable[tuple[str, bytes]], *, format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def zip_of(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def imagenet(folder: Path, *, each: int = 4) -> tuple[Path, Path]:
    """ILSVRC2012_img_train.tar, a tar of class tars, and ILSVRC2012_img_val.tar, a flat one."""
    train, val = images(each=each)
    classes = [
        (f"{wnid}.tar", tar_of((name, data) for name, data in train.items() if name.startswith(wnid)))
        for wnid in WNIDS
    ]
    paths = folder / "ILSVRC2012_img_train.tar", folder / "ILSVRC2012_img_val.tar"
    paths[0].write_bytes(tar_of(classes))
    paths[1].write_bytes(tar_of(val.items()))
    return paths


def devkit(folder: Path) -> Path:
    """ILSVRC2012_devkit_t12.tar.gz: classes in an order of its own, inner synsets after the 1,000."""
    from scipy.io import savemat

    wnids = sorted(imagenet_classes(), key=lambda wnid: wnid[::-1])  # some other order
    synsets = np.array(
        [(number, wnid) for number, wnid in enumerate([*wnids, "n00001740"], 1)],
        dtype=[("ILSVRC2012_ID", "f8"), ("WNID", "O")],
    )
    mat = io.BytesIO()
    savemat(mat, {"synsets": synsets[:, None]})
    classes, number = tuple(imagenet_classes()), {wnid: n for n, wnid in enumerate(wnids, 1)}
    truth = "".join(f"{number[classes[label]]}\n" for label in imagenet_val_labels())
    files = [
        ("ILSVRC2012_devkit_t12/readme.txt", b"..."),
        ("ILSVRC2012_devkit_t12/data/meta.mat", mat.getvalue()),
        ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode()),
    ]
    path = folder / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(gzip.compress(tar_of(files)))
    return path


def _suffixed(name: str, wnid: str) -> str:
    """n01440764_18_n01440764.JPEG, as Hugging Face named the images."""
    return f"{name.removesuffix('.JPEG')}_{wnid}.JPEG"


def _by_shard(
    shards: tuple[int, int], *, each: int = 4
) -> dict[tuple[str, int], list[tuple[str, str, bytes]]]:
    """Name, wnid and content of the images of each shard, by split and number; shuffled, as all layouts are."""
    made: dict[tuple[str, int], list[tuple[str, str, bytes]]] = {}
    for split, of, files, wnids in zip(
        ("train", "validation"), shards, images(each=each), (train_names(each=each), val_names()), strict=True
    ):
        names = sorted(files, key=lambda name: name[::-1])
        for number in range(of):
            made[split, number] = [(name, wnids[name], files[name]) for name in names[number::of]]
    return made


def parquet_table(rows: Iterable[tuple[str, str, bytes]]) -> pa.Table:
    """Rows of (path, wnid, content) with the columns, types and notes of `datasets`."""
    rows = list(rows)
    classes = tuple(imagenet_classes())
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([{"bytes": data, "path": path} for path, _, data in rows], image),
            "label": pa.array([classes.index(wnid) for _, wnid, _ in rows], pa.int64()),
        }
    )
    names = list(imagenet_classes().values())
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def huggingface_parquet(folder: Path, *, shards: tuple[int, int] = (3, 2), each: int = 4) -> Path:
    """ILSVRC/imagenet-1k: data/train-00000-of-00294.parquet …, in row groups of 100 as `datasets` writes them."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    for (split, number), rows in _by_shard(shards, each=each).items():
        of = shards[split == "validation"]
        table = parquet_table((_suffixed(name, wnid), wnid, data) for name, wnid, data in rows)
        pq.write_table(
            table, folder / "data" / f"{split}-{number:05d}-of-{of:05d}.parquet", row_group_size=100
        )
    test = parquet_table([("ILSVRC2012_test_00000001.JPEG", WNIDS[0], jpeg(1))])
    pq.write_table(test, folder / "data" / "test-00000-of-00028.parquet")
    return folder


def huggingface_tar_gz(folder: Path) -> Path:
    """Its revision of 2022: data/train_images_0.tar.gz to _4, data/val_images.tar.gz, data/test_images.tar.gz."""
    (folder / "data").mkdir(parents=True)
    (folder / "imagenet-1k.py").write_text("import datasets\n")
    for (split, number), rows in _by_shard((5, 1)).items():
        name = f"train_images_{number}" if split == "train" else "val_images"
        files = [(_suffixed(name, wnid), data) for name, wnid, data in rows]
        (folder / "data" / f"{name}.tar.gz").write_bytes(gzip.compress(tar_of(files)))
    test = tar_of([("ILSVRC2012_test_00000001.JPEG", jpeg(1))])
    (folder / "data" / "test_images.tar.gz").write_bytes(gzip.compress(test))
    return folder


def webdataset_shard(rows: Iterable[tuple[str, str, bytes]]) -> bytes:
    """A tar of .cls, .jpg and .json of each image, in the order in which webdataset writes them."""
    classes = tuple(imagenet_classes())
    files: list[tuple[str, bytes]] = []
    for name, wnid, data in rows:
        key, label = name.removesuffix(".JPEG"), classes.index(wnid)
        noted = {"filename": name, "label": label, "width": 60, "height": 45}
        files += [(f"{key}.cls", str(label).encode()), (f"{key}.jpg", data)]
        files += [(f"{key}.json", json.dumps(noted).encode())]
    return tar_of(files)


def huggingface_webdataset(folder: Path, *, shards: tuple[int, int] = (3, 2)) -> Path:
    """The first shards of timm/imagenet-1k-wds: imagenet1k-train-0000.tar …, imagenet1k-validation-00.tar …."""
    folder.mkdir(parents=True, exist_ok=True)
    for (split, number), rows in _by_shard(shards).items():
        digits = 4 if split == "train" else 2
        (folder / f"imagenet1k-{split}-{number:0{digits}d}.tar").write_bytes(webdataset_shard(rows))
    (folder / "_info.json").write_text("{}")
    return folder


def _kaggle_files(*, with_csv: bool) -> list[tuple[str, bytes]]:
    train, val = images()
    root = "ILSVRC/Data/CLS-LOC"
    files = [
        (f"ILSVRC/Annotations/CLS-LOC/train/{WNIDS[0]}/{WNIDS[0]}_18.xml", b"<annotation/>"),
        ("ILSVRC/ImageSets/CLS-LOC/train_cls.txt", b"n01440764/n01440764_18 1\n"),
        (f"{root}/test/ILSVRC2012_test_00000001.JPEG", jpeg(1)),
        *((f"{root}/train/{name.split('_')[0]}/{name}", data) for name, data in train.items()),
        *((f"{root}/val/{name}", data) for name, data in val.items()),
    ]
    if with_csv:
        boxes = "".join(f"{name[:-5]},{wnid} 85 1 499 272 \n" for name, wnid in val_names().items())
        files += [
            ("LOC_synset_mapping.txt", b"n01440764 tench, Tinca tinca\n"),
            ("LOC_val_solution.csv", b"ImageId,PredictionString\n" + boxes.encode()),
        ]
    return files


def kaggle_zip(folder: Path) -> Path:
    return zip_of(folder / "imagenet-object-localization-challenge.zip", _kaggle_files(with_csv=True))


def kaggle_tar(folder: Path) -> Path:
    path = folder / "ILSVRC2017_CLS-LOC.tar.gz"
    path.write_bytes(gzip.compress(tar_of([("ILSVRC/", b""), *_kaggle_files(with_csv=False)])))
    return path


def fastai(folder: Path, *, name: str = "imagenette", size: str = "-320") -> Path:
    train, val = images()
    root = f"{name}2{size}"
    files = [
        (f"{root}/", b""),
        (f"{root}/noisy_{name}.csv", b"path,noisy_labels_0\n"),
        (f"{root}/.DS_Store", b"\0\0\0\1Bud1"),
        *((f"{root}/train/{name.split('_')[0]}/{name}", data) for name, data in train.items()),
        *((f"{root}/val/{val_names()[name]}/{name}", data) for name, data in val.items()),
    ]
    path = folder / f"{root}.tgz"
    path.write_bytes(gzip.compress(tar_of(files, format=tarfile.PAX_FORMAT)))
    return path


def tiny_imagenet(folder: Path) -> Path:
    root = "tiny-imagenet-200"
    val = {f"val_{number}.JPEG": WNIDS[number % 3] for number in range(6)}
    files = [
        (f"{root}/", b""),
        (f"{root}/words.txt", b"n00001740\tentity\nn01440764\ttench, Tinca tinca\n"),
        (f"{root}/wnids.txt", "".join(f"{wnid}\n" for wnid in reversed(WNIDS)).encode()),
        (f"{root}/test/images/test_0.JPEG", jpeg(1, width=64, height=64)),
    ]
    for wnid in WNIDS:
        files.append((f"{root}/train/{wnid}/{wnid}_boxes.txt", b"x_0.JPEG\t0\t10\t63\t58\n"))
        files += [
            (
                f"{root}/train/{wnid}/images/{wnid}_{number}.JPEG",
                jpeg(number + len(files), width=64, height=64),
            )
            for number in range(4)
        ]
    boxes = "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in val.items())
    files.append((f"{root}/val/val_annotations.txt", boxes.encode()))
    files += [
        (f"{root}/val/images/{name}", jpeg(20_000 + number, width=64, height=64))
        for number, name in enumerate(val)
    ]
    return zip_of(folder / "tiny-imagenet-200.zip", files)


def unpacked(archive: Path, folder: Path) -> Path:
    """What unzip or tar -x makes of an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder


def imagenet_folders(folder: Path, *, flat: bool = False) -> Path:
    """train/ and val/ with class folders; `flat`: val/ as tar -x of ILSVRC2012_img_val.tar leaves it."""
    train, val = images()
    for name, data in train.items():
        write(folder / "train" / name.split("_")[0] / name, data)
    for name, data in val.items():
        write(folder / "val" / ("" if flat else val_names()[name]) / name, data)
    return folder


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def torchvision(folder: Path) -> Path:
    """The root of torchvision.datasets.ImageNet after its first use."""
    imagenet_folders(folder)
    imagenet(folder)
    devkit(folder)
    write(folder / "meta.bin", b"x")
    return folder


def written(root: Path) -> dict[str, dict[str, bytes]]:
    """Every image below `root`, by split, class and name."""
    return {
        split: {
            str(path.relative_to(root / split)): path.read_bytes() for path in (root / split).rglob("*.JPEG")
        }
        for split in ("train", "val")
    }


def images_in(root: Path) -> int:
    """Images below `root`, whatever is moved or removed meanwhile: `rglob` raises then."""
    return sum(name.endswith(".JPEG") for _, _, files in os.walk(root) for name in files)


def wanted() -> dict[str, dict[str, bytes]]:
    """The images of `images`, likewise."""
    train, val = images()
    return {
        "train": {f"{name.split('_')[0]}/{name}": data for name, data in train.items()},
        "val": {f"{val_names()[name]}/{name}": data for name, data in val.items()},
    }


def check_images_come_out_byte_for_byte(source: Source, out: Path) -> None:
    """Prepare a form of the images of `images`: all of them, unchanged, in their classes, and nothing else."""
    prepared = prepare(source, out)

    assert prepared.made
    assert written(out) == wanted()
    made = open_dataset(out)
    assert made.classes == WNIDS
    assert made.class_names[0] == "tench, Tinca tinca"
    assert (len(made.train), len(made.val)) == (12, 6)
    for split in (made.train, made.val):
        for index in range(len(split)):
            assert split.path(index).parent.name == WNIDS[split.labels[index]]
            assert split.sizes[index].tolist() == [60, 45]
            assert split.rows["bytes"][index] == split.path(index).stat().st_size
    assert sorted(path.name for path in out.iterdir())[1:] == [
        f"index-{made.digest[:16]}.npy",
        "train",
        "val",
    ]
