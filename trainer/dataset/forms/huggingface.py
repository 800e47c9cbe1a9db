"""ImageNet as it is published on the Hugging Face Hub, in three layouts of shards.

Sources: ILSVRC/imagenet-1k has 294 + 14 Parquet files; before, as its loading script of 2022 reads
them, 5 + 1 tar.gz whose members are called n01440764_10026_n01440764.JPEG, a name that Parquet's paths kept;
timm/imagenet-1k-wds has 1,024 + 64 tars of .cls, .jpg and .json. Labels are positions in the sorted wnids everywhere.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from trainer.dataset._archives import Data, Member, members
from trainer.dataset._hub import AHEAD, BACKOFF, Downloads, Repository, check_disk, find_repository
from trainer.dataset._hub import Progress as DownloadProgress
from trainer.dataset._ignored import OTHER_MEMBER, SYSTEM, Ignored
from trainer.dataset._look import Look
from trainer.dataset._manifest import Skipped, SplitName
from trainer.dataset._names import has_image_ending, is_system_member, shown
from trainer.dataset._parquet import check_parquet, read_rows
from trainer.dataset._preparation import check_new
from trainer.dataset._shards import Shard, is_shard, list_shard_folder, sort_shards
from trainer.dataset._source import Part, Source, SourceImage, member_image
from trainer.dataset.forms._form import Fetch, Form, Found, add_downloads
from trainer.dataset.forms._imagenet_labels import IMAGENET, imagenet_classes, val_wnids
from trainer.errors import DataError
from trainer.files import parse_json

REPOSITORY = "ILSVRC/imagenet-1k"

Images = Iterator[SourceImage | Skipped | Ignored]


def huggingface(folder: Path, *, revision: str | None = None, partial: bool = False) -> Source:
    """ImageNet from a folder with its shards, at any depth: downloaded, a clone, or the Hub's cache.

    Args:
        folder: where the shards are.
        revision: which revision of the Hub's cache (default: main).
        partial: whether shards may be missing.

    Raises: DataError if shards are missing, cut short, or only pointers to what Git LFS has not fetched.
    """
    root, files = list_shard_folder(folder, revision)
    shards, others = sort_shards(files, str(folder), partial=partial)
    for shard in shards:
        if shard.layout == "parquet":
            check_parquet(root / shard.name)

    def opened(shard: Shard) -> AbstractContextManager[Path]:
        return nullcontext(root / shard.name)

    return _source_of(shards, others, lambda: opened, origin=str(folder))


def huggingface_hub(
    repository: Repository,
    downloads: Path,
    *,
    keep: bool,
    partial: bool = False,
    progress: DownloadProgress = lambda done, total: None,
    backoff: float = BACKOFF,
) -> Source:
    """ImageNet from a repository on the Hub: each shard is downloaded, read, and deleted.

    Args:
        repository: what the Hub has.
        downloads: folder of downloads.
        keep: whether shards stay there.
        partial: whether shards may be missing.
        progress: called with the bytes of shards downloaded so far and their total.
        backoff: seconds after the first failed try of a download, doubled after each.

    Raises: DataError if shards are missing, or the disk of `downloads` is too small to keep them.
    """
    shards, others = sort_shards(repository.files, repository.name, partial=partial)
    names = [shard.name for shard in shards]
    if keep:
        check_disk(repository, names, downloads)

    def opener() -> Callable[[Shard], AbstractContextManager[Path]]:
        got = Downloads(repository, names, downloads, keep=keep, progress=progress, backoff=backoff)
        return lambda shard: got.open(shard.name)

    largest = max(shard.size for shard in shards)
    return _source_of(
        shards, others, opener, origin=repository.name, spare=0 if keep else (1 + AHEAD) * largest
    )


def _source_of(
    shards: list[Shard],
    others: list[str],
    opener: Callable[[], Callable[[Shard], AbstractContextManager[Path]]],
    *,
    origin: str,
    spare: int = 0,
) -> Source:
    def images() -> Iterator[Part | Ignored]:
        opened = opener()
        for shard in shards:
            yield Part(shard.name, shard.size, partial(_images, shard, opened))
        for name in others:
            yield Ignored(name, SYSTEM if is_system_member(name) else OTHER_MEMBER)

    return Source(
        name="imagenet",
        images=images,
        bytes=sum(shard.size for shard in shards),
        shards={shard.name: shard.size for shard in shards},
        spare=spare,
        published=IMAGENET,
        class_names=imagenet_classes,
        origin=origin,
    )


def _images(shard: Shard, opened: Callable[[Shard], AbstractContextManager[Path]]) -> Images:
    with opened(shard) as path:
        match shard.layout:
            case "parquet":
                yield from _parquet_images(shard, path)
            case "tar":
                yield from _webdataset_images(shard, path)
            case "tar.gz":
                yield from _archive_images(shard, path)


def _parquet_images(shard: Shard, path: Path) -> Images:
    for number, data, name, label in read_rows(path):
        where = f"{path}, row {number:,}"
        image = _identify(shard, number, where, label=label, names=(name,))
        if data is None:
            yield Skipped(image.path, f"has no content in {shown(shard.name)}")
        else:
            yield SourceImage(shard.split, image.wnid, image.path, len(data), partial(_same, data))


def _archive_images(shard: Shard, path: Path) -> Images:
    for number, member in enumerate(members(path)):
        if is_system_member(member.name):
            yield Ignored(member.name, SYSTEM)
        elif (found := _NAME.fullmatch(_base(member.name))) is None or not found["wnid"]:
            yield Ignored(member.name, OTHER_MEMBER)
        else:
            image = _identify(shard, number, str(path), names=(member.name,))
            yield member_image(member, shard.split, image.wnid, image.path.rpartition("/")[2])


def _webdataset_images(shard: Shard, path: Path) -> Images:
    """Members that stand together and have one key, their name up to the first dot of the file's name, are a sample."""
    for number, (key, sample) in enumerate(groupby(members(path, at_once=True), _key)):
        files: dict[str, Member] = {}  # by what is behind the key
        for member in sample:
            if is_system_member(member.name):
                yield Ignored(member.name, SYSTEM)
            else:
                data = member.read()
                files[member.name[len(key) + 1 :].lower()] = member._replace(read=partial(_same, data))
        found = [ending for ending in files if has_image_ending(f"x.{ending}")]
        if not found:
            yield from (Ignored(member.name, OTHER_MEMBER) for member in files.values())
            continue
        where = f"{path}, sample {shown(key)}"
        name: object = f"{key}.{found[0]}"
        label: object = _number(files["cls"], where) if "cls" in files else None
        if label is None or not _NAME.fullmatch(_base(f"{key}.{found[0]}")):
            noted = _noted(files.get("json"), where)
            name, label = noted.get("filename", name), noted.get("label") if label is None else label
        names = (name if isinstance(name, str) else None,)
        image = _identify(shard, number, where, label=label if isinstance(label, int) else None, names=names)
        yield member_image(files[found[0]], shard.split, image.wnid, image.path.rpartition("/")[2])


def _key(member: Member) -> str:
    folder, slash, file = member.name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _number(member: Member, where: str) -> int:
    text = bytes(member.read())[:20]
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: its .cls is {text!r} and should be a number; download it again") from None


def _noted(member: Member | None, where: str) -> Mapping[str, object]:
    """The sample's .json."""
    if member is None:
        return {}
    try:
        noted = parse_json(bytes(member.read()))
    except ValueError:
        raise DataError(f"{where}: its .json cannot be read; download it again") from None
    return noted if isinstance(noted, dict) else {}


# A published file's name, with or without the wnid that Hugging Face appended.
_NAME = re.compile(r"(?P<stem>n\d{8}_\d+|ILSVRC2012_val_\d{8})(?:_(?P<wnid>n\d{8}))?(?P<ending>\.\w+)?")


class _Identity(NamedTuple):
    wnid: str
    path: str  # below the data set's folder


def _identify(
    shard: Shard, number: int, where: str, *, names: tuple[str | None, ...], label: int | None = None
) -> _Identity:
    """Class and published file name of an image, from all that is said of it.

    Args:
        shard: where it is.
        number: of the image in the shard, for one that has no published name.
        where: it is, for messages.
        names: that may be the published one; the first counts that is.
        label: position in ImageNet's classes; None if there is none.

    Raises: DataError if what is said differs, or nothing says which class it is.
    """
    said: dict[str, str] = {}  # wnid by what says so
    if label is not None:
        if not 0 <= label < len(_wnids()):
            raise DataError(
                f"{where}: its label is {label}, and ImageNet's are 0 to 999; this is not the published data set"
                + (", or one of its test shards, which have no labels" if label == -1 else "")
            )
        said[f"label {label}"] = _wnids()[label]
    found = next(filter(None, (_NAME.fullmatch(_base(name)) for name in names if name)), None)
    ending = ".JPEG"
    if found is None:
        stem = f"{_base(shard.name).partition('.')[0]}-{number:06d}".replace(" ", "-")
    else:
        stem = found["stem"]
        if found["ending"] and found["ending"].lower() not in (".jpeg", ".jpg"):
            ending = found["ending"]
        if found["wnid"]:
            said[f"the end of {found[0]}"] = found["wnid"]
        if stem.startswith("n"):
            said[f"the beginning of {found[0]}"] = stem[:9]
        elif stem in _val_wnids():
            said[f"the published label of {stem}"] = _val_wnids()[stem]
    if len(wnids := set(said.values())) != 1:
        words = ", ".join(f"{what} says {wnid}" for what, wnid in said.items())
        raise DataError(
            f"{where}: {words or 'neither a label nor a name says which class it is'}; "
            "this is not the published data set"
        )
    (wnid,) = wnids
    if wnid not in imagenet_classes():
        raise DataError(f"{where}: {wnid} is not one of ImageNet's 1,000 classes")
    return _Identity(wnid, _path(shard.split, wnid, stem + ending))


def _path(split: SplitName, wnid: str, name: str) -> str:
    return f"{split}/{wnid}/{name}"


def _base(path: str) -> str:
    return path.rpartition("/")[2]


@cache
def _wnids() -> tuple[str, ...]:
    return tuple(imagenet_classes())


@cache
def _val_wnids() -> Mapping[str, str]:
    """Wnid of each validation image, by its name without the ending."""
    return {name.partition(".")[0]: wnid for name, wnid in val_wnids().items()}


def _same(data: Data) -> Data:
    return data


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        default=REPOSITORY,
        metavar="SOURCE",
        help=f"folder with the shards, or OWNER/NAME of a data set on the Hub (default: {REPOSITORY})",
    )
    parser.add_argument("--revision", metavar="REV", help="commit, branch or tag on the Hub (default: main)")
    parser.add_argument(
        "--partial", action="store_true", help="accept that shards are missing: a part of ImageNet is meant"
    )
    add_downloads(parser)


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    name: str = options.source
    if Path(name).is_dir():
        return huggingface(Path(name), revision=options.revision, partial=options.partial)
    if Path(name).exists():
        raise DataError(f"{name} is a file; give the folder that holds the shards")
    if name.startswith(("/", ".", "~")):
        raise DataError(f"there is no folder {name}; give the folder that holds the shards")
    name = re.sub(r"^(https?://[^/]+/|hf://)?datasets/", "", name).strip("/")
    check_new(out)  # nothing is downloaded into a folder that will be refused
    return huggingface_hub(
        find_repository(name, options.revision),
        options.downloads or out / ".preparing" / "downloads",
        keep=options.downloads is not None,
        partial=options.partial,
        progress=fetch.bar(f"downloading {name}"),
    )


_PAGE = re.compile(r"(?:https?://huggingface\.co/|hf://)datasets/[^/]+/[^/?#]+/?")


def _recognise(look: Look) -> Found | None:
    """Shards in a folder or its data/, the Hub's cache, or a data set's page on the Hub."""
    if not look.is_local:
        known = _PAGE.fullmatch(look.address) is not None
        return Found("ImageNet on the Hugging Face Hub", [look.address]) if known else None
    snapshots = [
        f"{above}snapshots/{commit}/"
        for above in ("", *(f"{name}/" for name in look.folders() if name.startswith("datasets--")))
        for commit in look.folders(f"{above}snapshots")
    ]
    for below in (f"{top}{folder}" for top in ("", *snapshots) for folder in ("", "data/")):
        shards = [name for name in look.files(below) if is_shard(below + name)]
        if shards:
            return Found(f"ImageNet in {len(shards):,} shards of the Hugging Face Hub", [look.address])
    return None


FORM = Form(
    name="huggingface",
    help="ImageNet from the Hugging Face Hub, or from its shards on disk",
    example="huggingface ILSVRC/imagenet-1k --out /data/imagenet",
    add_arguments=_add_arguments,
    identity=lambda options: ("imagenet", {}),
    source=_source,
    recognise=_recognise,
    layout="data/train-00000-of-00294.parquet …, imagenet1k-train-0000.tar …, train_images_0.tar.gz …, the Hub's cache",
)
