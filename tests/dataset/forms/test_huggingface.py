"""ImageNet in the three layouts of the Hugging Face Hub, from a folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.dataset import published
from tests.dataset.published import WNIDS, jpeg, parquet_table
from trainer.dataset import huggingface, imagenet, open_dataset, prepare
from trainer.dataset._ignored import TWICE
from trainer.errors import DataError

LAYOUTS = {
    "parquet": published.huggingface_parquet,
    "tar.gz": published.huggingface_tar_gz,
    "webdataset": published.huggingface_webdataset,
}
Layout = Callable[[Path], Path]
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(scope="module")
def from_tars(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the same images when they come from image-net.org's tars."""
    folder = tmp_path_factory.mktemp("tars")
    archives = published.imagenet(folder)
    return str(prepare(imagenet(archives, verify=False), folder / "out").metadata["digest"])


def digest(folder: Path, out: Path, *, revision: str | None = None) -> str:
    return str(prepare(huggingface(folder, revision=revision, partial=True), out).metadata["digest"])


def shard(folder: Path, name: str) -> Path:
    (found,) = folder.rglob(name)
    return found


@each_layout
def test_the_images_come_out_byte_for_byte_in_their_classes(tmp_path: Path, layout: Layout) -> None:
    source = huggingface(layout(tmp_path / "in"), partial=True)

    published.check_images_come_out_byte_for_byte(source, tmp_path / "out")


@each_layout
def test_the_data_set_is_that_of_the_tars(tmp_path: Path, layout: Layout, from_tars: str) -> None:
    assert digest(layout(tmp_path / "in"), tmp_path / "out") == from_tars


@each_layout
def test_files_that_are_no_shards_of_training_or_validation_are_counted(
    tmp_path: Path, layout: Layout
) -> None:
    metadata = prepare(huggingface(layout(tmp_path / "in"), partial=True), tmp_path / "out").metadata

    wanted = {
        published.huggingface_parquet: {(".md", 1), (".parquet", 1)},
        published.huggingface_tar_gz: {(".py", 1), (".gz", 1)},
        published.huggingface_webdataset: {(".json", 1)},
    }
    assert {(ending, files) for ending, _, files, _ in metadata["ignored"]} == wanted[layout]


@each_layout
def test_a_shard_that_is_there_twice_changes_nothing_and_is_counted(
    tmp_path: Path, layout: Layout, from_tars: str
) -> None:
    folder = layout(tmp_path / "in")
    name = {"parquet": "train-00001-of-00003.parquet", "tar": "imagenet1k-train-0001.tar"}
    first = shard(folder, name.get(next(folder.rglob("*train*1*")).suffix[1:], "train_images_1.tar.gz"))
    base, _, ending = first.name.partition(".")
    shutil.copy(first, first.with_name(f"{base} (1).{ending}"))

    metadata = prepare(huggingface(folder, partial=True), tmp_path / "out").metadata

    assert metadata["digest"] == from_tars
    assert [one[2] for one in metadata["ignored"] if one[1] == TWICE] in ([4], [2], [3])


def test_the_names_of_files_do_not_decide_the_order(tmp_path: Path, from_tars: str) -> None:
    """Shards in other folders, and numbered the other way round."""
    folder = published.huggingface_parquet(tmp_path / "in")
    first, last = (shard(folder, f"train-0000{number}-of-00003.parquet") for number in (0, 2))
    (folder / "more" / "deep").mkdir(parents=True)
    first.rename(folder / "more" / "deep" / last.name)
    last.rename(folder / first.name)

    assert digest(folder, tmp_path / "out") == from_tars


def test_foreign_columns_other_types_and_large_row_groups_change_nothing(
    tmp_path: Path, from_tars: str
) -> None:
    """As others publish it: 32 bits for the label, 64 for offsets, more columns, other packing."""
    folder = published.huggingface_parquet(tmp_path / "in")
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        image = pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary()), ("width", pa.int16())])
        images = [{**one, "width": 60} for one in table["image"].to_pylist()]
        table = pa.table(
            {
                "caption": ["a fish"] * len(table),
                "label": table["label"].cast(pa.int16()),
                "image": pa.array(images, image),
            }
        )
        pq.write_table(table, path, compression="zstd", row_group_size=10_000)

    assert digest(folder, tmp_path / "out") == from_tars


def test_a_row_without_a_name_takes_that_of_its_shard(tmp_path: Path) -> None:
    folder = published.huggingface_parquet(tmp_path / "in")
    path = shard(folder, "train-00000-of-00003.parquet")
    rows = [(None, wnid, jpeg(seed)) for seed, wnid in enumerate(WNIDS)]
    pq.write_table(parquet_table(rows), path)

    prepare(huggingface(folder), tmp_path / "out")

    assert (tmp_path / "out/train/n01440764/train-00000-of-00003-000000.JPEG").read_bytes() == jpeg(0)


def test_a_row_without_content_is_skipped_by_name(tmp_path: Path) -> None:
    folder = published.huggingface_parquet(tmp_path / "in")
    path = shard(folder, "train-00000-of-00003.parquet")
    rows = [("n01440764_1_n01440764.JPEG", WNIDS[0], None)]
    pq.write_table(pa.concat_tables([pq.read_table(path), parquet_table(rows)]), path)

    metadata = prepare(huggingface(folder), tmp_path / "out").metadata

    assert list(map(tuple, metadata["skipped"])) == [
        ("train/n01440764/n01440764_1.JPEG", "has no content in data/train-00000-of-00003.parquet")
    ]


# --- What is refused --------------------------------------------------------------------------


@each_layout
def test_a_shard_cut_short_is_refused_by_name(tmp_path: Path, layout: Layout) -> None:
    folder = layout(tmp_path / "in")
    path = sorted(folder.rglob("*train*1*"))[0]
    os.truncate(path, path.stat().st_size * 2 // 3)

    with pytest.raises(
        DataError, match=rf"{re.escape(str(path))}.*(ends early|cannot be read as an archive)"
    ):
        digest(folder, tmp_path / "out")


def test_a_parquet_shard_cut_short_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = published.huggingface_parquet(tmp_path / "in")
    path = shard(folder, "validation-00001-of-00002.parquet")
    os.truncate(path, path.stat().st_size - 100)

    with pytest.raises(DataError, match="lacks a Parquet file's footer"):
        digest(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_page_is_refused_by_the_shards_name(tmp_path: Path) -> None:
    folder = published.huggingface_parquet(tmp_path / "in")
    path = shard(folder, "train-00001-of-00003.parquet")
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)

    with pytest.raises(DataError, match=rf"{re.escape(str(path))} cannot be read as Parquet"):
        digest(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("layout", "gone", "message"),
    [
        (
            published.huggingface_parquet,
            "train-00001-of-00003.parquet",
            r"lacks 1 of the 3 shards for train: data/train-00001-of-00003\.parquet;.*--partial",
        ),
        (
            published.huggingface_tar_gz,
            "train_images_4.tar.gz",
            r"lacks 1 of the 5 shards for train: data/train_images_4\.tar\.gz",
        ),
        (
            published.huggingface_webdataset,
            "imagenet1k-validation-00.tar",
            r"lacks 1,021 of the 1,024 shards for train: imagenet1k-train-0003\.tar, .* …",
        ),
    ],
)
def test_a_missing_shard_is_named_unless_a_part_is_meant(
    tmp_path: Path, layout: Layout, gone: str, message: str
) -> None:
    folder = layout(tmp_path / "in")
    shard(folder, gone).unlink()

    with pytest.raises(DataError, match=message):
        huggingface(folder)
    assert gone not in {Path(name).name for name in huggingface(folder, partial=True).shards}


def test_a_gap_in_numbers_without_an_end_is_a_missing_shard(tmp_path: Path) -> None:
    folder = published.huggingface_webdataset(tmp_path / "in")
    for path in folder.glob("*.tar"):
        path.rename(path.with_name(path.name.replace("imagenet1k", "mine")))
    (folder / "mine-train-0001.tar").unlink()

    with pytest.raises(DataError, match=r"lacks 1 of the 3 shards for train: mine-train-0001\.tar"):
        huggingface(folder)


def test_a_folder_without_shards_or_with_two_sets_of_them_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no shard of ImageNet, such as .*; it has no files"):
        huggingface(tmp_path / "empty")

    both = published.huggingface_webdataset(published.huggingface_parquet(tmp_path / "both"))
    with pytest.raises(DataError, match=r"in 2 layouts \(parquet, tar\)"):
        huggingface(both)

    two = published.huggingface_parquet(tmp_path / "two")
    shard(two, "train-00001-of-00003.parquet").rename(two / "train-00001-of-00294.parquet")
    with pytest.raises(DataError, match="shards of more than one set for train"):
        huggingface(two)

    half = published.huggingface_parquet(tmp_path / "half")
    for path in half.rglob("validation*"):
        path.unlink()
    with pytest.raises(DataError, match="has no shard for val; both"):
        huggingface(half)


def first_shard_with(folder: Path, table: pa.Table) -> Path:
    path = shard(published.huggingface_parquet(folder), "train-00000-of-00003.parquet")
    pq.write_table(table, path)
    return folder


GOOD = parquet_table([("n01440764_18_n01440764.JPEG", WNIDS[0], jpeg(0))])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD.drop_columns(["label"]), r"has the columns image struct<.*>; images come as"),
        (GOOD.rename_columns(["img", "label"]), r"has the columns img struct<.*>, label int64"),
        (pa.table({"image": [b"x"], "label": [0]}), r"has the columns image binary, label int64"),
        (GOOD.set_column(1, "label", pa.array(["tench"])), r"label string; images come as"),
        (GOOD.set_column(1, "label", pa.array([1000])), r"row 0: its label is 1000, and ImageNet's are 0 to 999"),
        (GOOD.set_column(1, "label", pa.array([-1])), r"label is -1.*one of its test shards"),
        (
            GOOD.set_column(1, "label", pa.array([1])),
            r"row 0: label 1 says n01443537, the end of n01440764_18_n01440764\.JPEG says n01440764, the beginning",
        ),
        (
            parquet_table([("n01440764_1.JPEG", WNIDS[0], bytes(64 * 2**20 + 1))]),
            r"row 0: an image of 67,108,865 bytes; no image of a data set has more",
        ),
        (
            parquet_table([("ILSVRC2012_val_00000001.JPEG", WNIDS[0], jpeg(0))]),
            "the published label of ILSVRC2012_val_00000001 says n01751748",
        ),
        (
            pa.table(
                {
                    "image": pa.array([{"bytes": b"x"}], pa.struct([("bytes", pa.binary())])),
                    "label": pa.array([None], pa.int64()),
                }
            ),
            "neither a label nor a name says which class it is",
        ),
        (
            GOOD.replace_schema_metadata(
                {"huggingface": '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'}
            ),
            "has labels of 2 classes of its own",
        ),
    ],
)  # fmt: skip
def test_what_is_not_the_published_table_is_refused_in_a_sentence(
    tmp_path: Path, table: pa.Table, message: str
) -> None:
    folder = first_shard_with(tmp_path / "in", table)

    with pytest.raises(DataError, match=message):
        digest(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("x.cls", b"tench"), ("x.jpg", jpeg(0))], r"sample x: its \.cls is b'tench'"),
        ([("x.json", b"{"), ("x.jpg", jpeg(0))], r"sample x: its \.json cannot be read"),
        ([("x.jpg", jpeg(0))], "neither a label nor a name"),
        ([("n01440764_18.cls", b"1"), ("n01440764_18.jpg", jpeg(0))], "label 1 says n01443537, the beginning of"),
    ],
)  # fmt: skip
def test_a_sample_that_contradicts_itself_is_refused(
    tmp_path: Path, files: list[tuple[str, bytes]], message: str
) -> None:
    folder = published.huggingface_webdataset(tmp_path / "in")
    (folder / "imagenet1k-train-0000.tar").write_bytes(published.tar_of(files))

    with pytest.raises(DataError, match=message):
        digest(folder, tmp_path / "out")


def test_samples_without_a_published_name_take_that_of_their_shard(tmp_path: Path) -> None:
    folder = published.huggingface_webdataset(tmp_path / "in")
    files = [("0007.cls", b"0"), ("0007.jpg", jpeg(7)), ("._0007.jpg", b"\0"), ("notes.txt", b"")]
    (folder / "imagenet1k-train-0003.tar").write_bytes(published.tar_of(files))

    prepare(huggingface(folder, partial=True), tmp_path / "out")

    path = tmp_path / "out/train/n01440764/imagenet1k-train-0003-000000.JPEG"
    assert path.read_bytes() == jpeg(7)


# --- Where people have them -------------------------------------------------------------------


def test_pointers_of_git_lfs_are_refused_with_the_command_that_fetches_the_files(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 480000000\n"
    for name, layout in LAYOUTS.items():
        folder = layout(tmp_path / name)
        for path in sorted(folder.rglob("*train*")):
            path.write_bytes(pointer)

        with pytest.raises(DataError, match=r"is a Git LFS pointer, not .*; fetch it with git lfs pull"):
            digest(folder, tmp_path / "out" / name)


def in_cache(folder: Path, commit: str, layout: Layout) -> Path:
    """The Hub's cache of one repository: links in snapshots/COMMIT to blobs, which have no names."""
    plain = layout(folder.parent / f"plain-{commit}")
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    for path in [path for path in plain.rglob("*") if path.is_file()]:
        blob = folder / "blobs" / f"{commit}-{len(list((folder / 'blobs').iterdir()))}"
        path.rename(blob)
        link = folder / "snapshots" / commit / path.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs" / "main").write_text(commit)
    return folder


def test_the_hubs_cache_is_read_through_its_links(tmp_path: Path, from_tars: str) -> None:
    cache = in_cache(
        tmp_path / "hub" / "datasets--ILSVRC--imagenet-1k", "a" * 40, published.huggingface_parquet
    )

    assert digest(cache, tmp_path / "out") == from_tars
    assert digest(cache.parent, tmp_path / "again") == from_tars
    assert digest(cache / "snapshots" / ("a" * 40), tmp_path / "third") == from_tars


def test_of_several_revisions_in_the_cache_main_is_taken_or_the_named_one(
    tmp_path: Path, from_tars: str
) -> None:
    cache = tmp_path / "datasets--ILSVRC--imagenet-1k"
    in_cache(cache, "a" * 40, published.huggingface_tar_gz)
    in_cache(cache, "b" * 40, published.huggingface_parquet)

    for revision, name in ((None, "main"), ("a" * 40, "old")):
        assert digest(cache, tmp_path / name, revision=revision) == from_tars
    with pytest.raises(
        DataError, match=r"holds the revisions a+, b+, and not script; name one with --revision"
    ):
        huggingface(cache, revision="script")


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    cache = in_cache(tmp_path / "datasets--ILSVRC--imagenet-1k", "a" * 40, published.huggingface_webdataset)
    shutil.rmtree(cache / "blobs")

    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\); download it again"):
        huggingface(cache)


def test_links_that_lead_back_end(tmp_path: Path, from_tars: str) -> None:
    folder = published.huggingface_parquet(tmp_path / "in")
    (folder / "data" / "back").symlink_to(folder)

    assert digest(folder, tmp_path / "out") == from_tars


def test_what_is_prepared_says_which_shards_it_came_from(tmp_path: Path) -> None:
    folder = published.huggingface_parquet(tmp_path / "in")

    metadata = prepare(huggingface(folder), tmp_path / "out").metadata

    assert sorted(metadata["archives"]) == [
        *(f"data/train-0000{number}-of-00003.parquet" for number in range(3)),
        *(f"data/validation-0000{number}-of-00002.parquet" for number in range(2)),
    ]
    assert open_dataset(tmp_path / "out").classes == WNIDS
