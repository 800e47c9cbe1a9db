"""Sources that come in parts, each opened by itself, and that may hold a file twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.dataset.published import jpeg
from trainer.dataset import Ignored, Skipped, Source, SourceImage, SplitName, prepare
from trainer.dataset._ignored import OTHER_MEMBER, TWICE
from trainer.dataset._resume_log import LOG
from trainer.dataset._source import Part
from trainer.errors import DataError

# Each part holds images of both splits and classes, something that is ignored, and something that is skipped.
PARTS: Mapping[str, range] = {"a": range(8), "b": range(8, 16), "c": range(16, 24)}


class Parts:
    """A source of parts that knows which were opened, and may break off before an image."""

    def __init__(
        self, parts: Mapping[str, range] = PARTS, *, broken_at: int | None = None, other: int | None = None
    ) -> None:
        self.parts, self.broken_at = parts, broken_at
        self.other = other  # the image of this number has other content in the last part
        self.opened: list[str] = []
        self.read: set[int] = set()  # numbers of images

    def source(self) -> Source:
        return Source("parts", self._parts, bytes=0, shards=dict.fromkeys(self.parts, 100), origin="there")

    def _read(self, number: int, content: bytes) -> bytes:
        self.read.add(number)
        return content

    def _wait_until_read(self, parts: list[str]) -> None:
        """What a thread has begun when a preparation breaks off is finished; what it has not is not."""
        wanted = {number for name in parts for number in self.parts[name]}
        end = time.monotonic() + 0.5  # those of an earlier call are not read again
        while not wanted <= self.read and time.monotonic() < end:
            time.sleep(0.001)

    def _parts(self) -> Iterator[Part]:
        for name in self.parts:
            yield Part(name, 100, lambda name=name: self._images(name))  # type: ignore[misc]

    def _images(self, name: str) -> Iterator[SourceImage | Skipped | Ignored]:
        self.opened.append(name)
        for number in self.parts[name]:
            if number == self.broken_at:
                self._wait_until_read(self.opened[:-1])
                raise DataError("the shard is damaged here")
            split: SplitName = "train" if number % 4 else "val"
            content = jpeg(99 if number == self.other and name == list(self.parts)[-1] else number)
            path = f"{split}/c{number // 4 % 2}/{number:02d}.JPEG"
            read = partial(self._read, number, content)
            yield SourceImage(split, path.split("/")[1], path, len(content), read)
        yield Ignored(f"{name}.txt", OTHER_MEMBER)
        yield Skipped(f"train/c0/{name}.JPEG", "has no content")


def prepared(parts: Parts, out: Path) -> Mapping[str, object]:
    return prepare(parts.source(), out, workers=1).metadata


@pytest.fixture
def undisturbed(tmp_path: Path) -> Mapping[str, object]:
    return prepared(Parts(), tmp_path / "undisturbed")


def content(metadata: Mapping[str, object]) -> tuple[object, ...]:
    """What must not depend on how often a preparation was begun; the order in which files were skipped may."""
    skipped, ignored = metadata["skipped"], metadata["ignored"]
    assert isinstance(skipped, list)
    assert isinstance(ignored, list)
    return metadata["digest"], metadata["counts"], sorted(map(tuple, skipped)), sorted(map(tuple, ignored))


@pytest.mark.parametrize("broken_at", [1, 8, 9, 15, 16, 23])
def test_a_part_that_is_written_is_not_opened_again(
    tmp_path: Path, undisturbed: Mapping[str, object], broken_at: int
) -> None:
    broken = Parts(broken_at=broken_at)
    with pytest.raises(DataError, match="damaged here"):
        prepared(broken, tmp_path / "out")
    assert broken.opened == list("abc")[: 1 + broken_at // 8]

    again = Parts()
    assert content(prepared(again, tmp_path / "out")) == content(undisturbed)
    assert again.opened == list("abc")[broken_at // 8 :]


def test_a_preparation_may_be_broken_off_often(tmp_path: Path, undisturbed: Mapping[str, object]) -> None:
    for broken_at in (3, 5, 12, 12, 20, 22):
        with pytest.raises(DataError, match="damaged here"):
            prepared(Parts(broken_at=broken_at), tmp_path / "out")

    again = Parts()
    assert content(prepared(again, tmp_path / "out")) == content(undisturbed)
    assert again.opened == ["c"]


def test_a_part_of_which_an_image_was_lost_is_opened_again(
    tmp_path: Path, undisturbed: Mapping[str, object]
) -> None:
    """As a power cut may lose it: it is in the log, and its bytes never reached the disk."""
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepared(Parts(broken_at=20), out)
    (out / "train/c0/09.JPEG").write_bytes(b"")

    with pytest.raises(DataError):
        prepared(broken := Parts(broken_at=21), out)
    assert broken.opened == ["a", "b", "c"]  # which of them lost it, the log does not say

    again = Parts()
    assert content(prepared(again, out)) == content(undisturbed)
    assert again.opened == ["c"]
    assert (out / "train/c0/09.JPEG").read_bytes() == jpeg(9)


def test_a_part_that_a_power_cut_can_no_longer_undo_is_not_opened_again(
    tmp_path: Path, undisturbed: Mapping[str, object]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepared(Parts(broken_at=20), out)
    log = out / ".preparing" / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if line.startswith(b"#part\ta"))
    durable = sum(map(len, lines[: first + 1]))
    log.write_bytes(b"".join(lines) + b"#durable\t%d\n" % durable)
    (out / "train/c0/09.JPEG").unlink()

    again = Parts()
    assert content(prepared(again, out)) == content(undisturbed)
    assert again.opened == ["b", "c"]


def test_a_line_of_the_log_that_is_cut_off_ends_no_part(
    tmp_path: Path, undisturbed: Mapping[str, object]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepared(Parts(broken_at=20), out)
    log = out / ".preparing" / LOG
    content_before = log.read_bytes()
    log.write_bytes(content_before[: content_before.index(b"#part\tb") + 7])

    again = Parts()
    assert content(prepared(again, out)) == content(undisturbed)
    assert again.opened == ["b", "c"]


@pytest.mark.parametrize(
    "damage", [b"#part\tb\tnull\n", b"#part\tb\t[[1]]\n", b"#part\n", b'#part\tb\t{"a"\n']
)
def test_a_damaged_end_of_a_part_counts_for_nothing(
    tmp_path: Path, undisturbed: Mapping[str, object], damage: bytes
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepared(Parts(broken_at=12), out)
    with (out / ".preparing" / LOG).open("ab") as log:
        log.write(damage)

    again = Parts()
    assert content(prepared(again, out)) == content(undisturbed)
    assert again.opened == ["b", "c"]


# --- A file that is there twice ---------------------------------------------------------------

REPEATING = {**PARTS, "d": range(4, 12)}  # the end of one part and the beginning of the next


def test_a_repeat_byte_for_byte_is_counted_and_changes_nothing(
    tmp_path: Path, undisturbed: Mapping[str, object]
) -> None:
    metadata = prepared(Parts(REPEATING), tmp_path / "out")

    ignored = metadata["ignored"]
    assert isinstance(ignored, list)
    assert metadata["digest"] == undisturbed["digest"]
    assert [one[2] for one in ignored if one[1] == TWICE] == [8]


def test_a_repeat_that_differs_is_refused_by_name_now_and_later(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=r"has train/c0/09\.JPEG twice, and the two differ"):
            prepared(Parts(REPEATING, other=9), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert b"#part\td" not in (tmp_path / "out" / ".preparing" / LOG).read_bytes()


def test_a_repeat_of_a_part_that_is_not_opened_again_is_compared_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged here"):
        prepared(Parts(REPEATING, broken_at=20), tmp_path / "out")

    with pytest.raises(DataError, match=r"has train/c0/09\.JPEG twice, and the two differ"):
        prepared(again := Parts(REPEATING, other=9), tmp_path / "out")
    assert again.opened == ["c", "d"]


def test_repeats_of_a_part_that_is_not_opened_again_are_still_counted(tmp_path: Path) -> None:
    parts = {"a": range(8), "twice": range(8), "c": range(8, 16)}
    with pytest.raises(DataError, match="damaged here"):
        prepared(Parts(parts, broken_at=12), tmp_path / "out")

    again = Parts(parts)
    metadata = prepared(again, tmp_path / "out")

    assert again.opened == ["c"]
    assert content(metadata) == content(prepared(Parts(parts), tmp_path / "calm"))


def test_other_parts_do_not_go_on_with_a_begun_preparation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged here"):
        prepared(Parts(broken_at=20), tmp_path / "out")

    many = {f"shard-{number}": range(1) for number in range(300)}
    with pytest.raises(DataError, match=r"from a, b, c\) was begun in"):
        prepared(Parts(many), tmp_path / "out")
