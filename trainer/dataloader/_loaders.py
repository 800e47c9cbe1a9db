"""The batches of training and validation.

Python decides which files, in which order and with which crop (`_order`, `_preprocessing`), reads
their bytes ahead in threads, and DALI's graphs (`_graph`) do everything to pixels. So there is no state worth
saving.
"""

# DALI makes its enums at run time and does not type its decorator; nothing else imports it.
# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload,no-untyped-call"

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from trainer.config import Decoder, Execution, Preprocess, Recipe
from trainer.dataloader._augment import Augmentation, make_augmentations
from trainer.dataloader._crops import DRAWS, MEAN, STD, centre_crops, random_resized_crops
from trainer.dataloader._pipelines import LABEL, PREFETCH, SIZE, Graph, Kind, Nodes, decoding_graph, external
from trainer.dataloader._sampler import epoch_order, uniform
from trainer.dataset import Split
from trainer.distributed import World
from trainer.errors import DataError

MOST_THREADS = 16  # for one GPU: each takes 16 MiB of its memory, and as much pinned, in each of two graphs
READERS = 8  # threads that wait for the disk; network volumes answer in about a millisecond
FILES_PER_READ = 16  # files one task reads: few tasks, and enough of them for all readers
READ_AHEAD = 4  # batches whose files are being read before DALI asks
ENCODED: Kind = (types.UINT8, 1)
CORNER: Kind = (types.FLOAT, 1)  # x and y
MIRROR: Kind = (types.INT32, 0)  # 1: flip_tta
PLACE: Kind = (types.FLOAT, 0)  # of a crop on an axis, 0 to 1


class Batch(NamedTuple):
    """Images and labels on the device they were made for."""

    images: torch.Tensor  # (N, 3, H, W), channels-last, normalised
    labels: torch.Tensor  # (N,) int64
    targets: torch.Tensor | None = None  # (N, classes) shares of each class, of mixed images


@dataclass(frozen=True)
class _Samples:
    """One batch as a plan: which images, and the numbers that belong to them in this epoch."""

    indices: npt.NDArray[np.int64]  # (N,) into the split
    luck: npt.NDArray[np.float64]  # (N, draws) for the crop, the flip, and each augmentation


class TrainLoader:
    """Endless training batches, each a pure function of (seed, step, place among the processes).

    A step's global batch is the same set of images at any number of processes; this process gets
    its share of it in `accumulation` micro-batches.
    """

    def __init__(
        self, split: Split, recipe: Recipe, world: World, execution: Execution = Execution()
    ) -> None:
        self._split, self._recipe, self._world = split, recipe, world
        self._decoder = execution.decoder or _default_decoder(world)
        self._augmentations = make_augmentations(recipe.preprocess)
        self.steps_per_epoch = recipe.steps_per_epoch(len(split))
        self.accumulation_steps = recipe.accumulation_steps(world.size, execution.batch_per_gpu)
        self.micro_batch = recipe.micro_batch(world.size, execution.batch_per_gpu)

    def indices(self, step: int, part: int) -> npt.NDArray[np.int64]:
        """Positions in the split of micro-batch `part` of `step` on this process."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != getattr(self, "_ordered_epoch", None):
            self._ordered_epoch = epoch
            self._ordered = epoch_order(self._recipe.seed, epoch, len(self._split))
        start = within * self._recipe.global_batch
        start += (part * self._world.size + self._world.rank) * self.micro_batch
        return self._ordered[start : start + self.micro_batch]

    def batches(self, *, first_step: int, last_step: int) -> Iterator[Batch]:
        """Micro-batches of the steps from `first_step` up to, not including, `last_step`.

        Raises: DataError naming the file when one cannot be read or decoded.
        """
        for number, (size, first, last) in enumerate(self._sizes(first_step, last_step)):
            if number:
                gc.collect()  # the graph before this one refers to itself, and holds threads and a GPU's memory
            feed = self._feed(first, last, size)
            graph = Graph(
                partial(self._decode, feed),
                partial(_train_end, self._augmentations, size),
                [MIRROR, *(one.kind for one in self._augmentations)],
                conditionals=True,
                **self._options(),
            )
            yield from _batches(graph, feed)
            del graph, feed

    def _sizes(self, first_step: int, last_step: int) -> Iterator[tuple[int, int, int]]:
        """Stretches of steps whose crops have the same size: that, the first step, and the one after the last."""
        while first_step < last_step:
            epoch = first_step // self.steps_per_epoch
            size = self._recipe.train_size(epoch)
            # Beyond the recipe's epochs, which a benchmark may go, nothing changes.
            ends = (e for e in range(epoch + 1, self._recipe.epochs) if self._recipe.train_size(e) != size)
            end = next((e * self.steps_per_epoch for e in ends), last_step)
            yield size, first_step, min(end, last_step)
            first_step = end

    def crops(self, *, first_step: int, last_step: int) -> Iterator[Any]:
        """What `batches` decodes, as DALI's lists of images in their own sizes: for measuring what decoding takes."""
        feed = self._feed(first_step, last_step, self._recipe.preprocess.train_size)
        graph = decoding_graph(partial(self._decode, feed), **self._options())
        while True:
            try:
                yield graph.run()
            except StopIteration:
                return

    def _options(self) -> dict[str, Any]:
        return _graph_options(self.micro_batch, self._world)

    def _decode(self, feed: _Feed) -> Nodes:
        """Decoded crops, their size to be, labels, which to mirror, and the numbers of each augmentation."""
        kinds = [one.kind for one in self._augmentations]
        encoded, anchors, shapes, *others = external(
            feed, [ENCODED, CORNER, SIZE, SIZE, LABEL, MIRROR, *kinds], no_copy=True
        )
        # Only the crop is decoded. EXIF rotation is off: ImageNet's labels and Pillow's pixels know none.
        crops = fn.decoders.image_slice(
            encoded,
            anchors,
            shapes,
            axis_names="WH",
            normalized_anchor=False,
            normalized_shape=False,
            **_decoder(self._decoder),
            output_type=types.RGB,
            adjust_orientation=False,
        )
        return crops, *others

    def _feed(self, first_step: int, last_step: int, size: int) -> _Feed:
        recipe = self._recipe
        draws = DRAWS + 1 + sum(one.draws for one in self._augmentations)

        def plan() -> Iterator[_Samples]:
            for step in range(first_step, last_step):
                for part in range(self.accumulation_steps):
                    chosen = self.indices(step, part)
                    epoch = step // self.steps_per_epoch
                    yield _Samples(chosen, uniform(recipe.seed, epoch, chosen, draws))

        def arrays(samples: _Samples) -> tuple[Any, ...]:
            photos = self._split.sizes[samples.indices]
            anchors, shapes = random_resized_crops(photos, samples.luck[:, :DRAWS], recipe.preprocess)
            mirror = (samples.luck[:, DRAWS] < 0.5) & recipe.preprocess.flip
            labels = self._split.labels[samples.indices]
            sizes = np.full((len(samples.indices), 2), size, np.float32)
            made = [anchors, shapes, sizes, labels, mirror.astype(np.int32)]
            used = DRAWS + 1
            for one in self._augmentations:
                made.append(one.numbers(samples.luck[:, used : used + one.draws], size))
                used += one.draws
            return tuple(made)

        feed = _Feed(self._split, arrays)
        feed.start(plan())
        return feed


class ValLoader:
    """The validation images of this process, in order; all processes together see each exactly once."""

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        world: World,
        *,
        batch: int,
        decoder: Decoder | None = None,
    ) -> None:
        self._indices = np.arange(world.rank, len(split), world.size, dtype=np.int64)
        self._batch = batch
        self.rounds = -(-len(split) // (world.size * batch))  # batches of the process that has most

        def arrays(samples: _Samples) -> tuple[Any, ...]:
            sizes, places = centre_crops(split.sizes[samples.indices], preprocess)
            left, top = np.ascontiguousarray(places.T)  # DALI takes no strides
            return np.ascontiguousarray(sizes), split.labels[samples.indices], left, top

        self._feed = _Feed(split, arrays)
        self._graph = Graph(
            partial(_val_decode, self._feed, decoder or _default_decoder(world)),
            partial(_val_end, preprocess.val_size),
            [PLACE, PLACE],
            **_graph_options(batch, world),
        )

    def __iter__(self) -> Iterator[Batch]:
        """One pass. Raises: DataError naming the file when one cannot be read or decoded."""
        nothing = np.empty((0, 0))
        self._feed.start(
            _Samples(self._indices[start : start + self._batch], nothing)
            for start in range(0, len(self._indices), self._batch)
        )
        yield from _batches(self._graph, self._feed)
        self._graph.reset()


def _train_end(
    augmentations: list[Augmentation], size: int, pixels: Any, labels: Any, mirror: Any, *numbers: Any
) -> Nodes:
    for index, augment in enumerate(augmentations):
        pixels = augment(pixels, numbers[index], size)
    return normalised(pixels, mirror=mirror), labels


def _val_decode(feed: _Feed, decoder: Decoder) -> Nodes:
    """Whole images, their size to be, labels, and the place of the centre from left and top."""
    encoded, *others = external(feed, [ENCODED, SIZE, LABEL, PLACE, PLACE], no_copy=True)
    whole = fn.decoders.image(encoded, **_decoder(decoder), output_type=types.RGB, adjust_orientation=False)
    return whole, *others


def _val_end(side: int, pixels: Any, labels: Any, left: Any, top: Any) -> Nodes:
    return normalised(pixels, crop=(side, side), crop_pos_x=left, crop_pos_y=top), labels


def _decoder(decoder: Decoder) -> dict[str, Any]:
    if decoder == "cpu":
        return {"device": "cpu"}
    # Else the GPU repeats colours where the CPU interpolates them.
    mixed = {"device": "mixed", "jpeg_fancy_upsampling": True}
    return {**mixed, "hybrid_huffman_threshold": 1} if decoder == "mixed-huffman" else mixed


def normalised(images: Any, **crop_or_mirror: Any) -> Any:
    """Floats, HWC, which seen as NCHW by torch *is* channels-last: no copy."""
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="HWC",
        mean=[255 * m for m in MEAN],
        std=[255 * s for s in STD],
        **crop_or_mirror,
    )


def _graph_options(batch: int, world: World) -> dict[str, Any]:
    on_gpu = world.device.type == "cuda"
    threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return {
        "batch_size": batch,
        "num_threads": min(threads, MOST_THREADS) if on_gpu else threads,
        "device_id": world.device.index if on_gpu else None,
    }


def _default_decoder(world: World) -> Decoder:
    return "mixed" if world.device.type == "cuda" else "cpu"


class _Feed:
    """The source that DALI calls for each batch: the bytes of its files, and what `arrays` adds."""

    def __init__(self, split: Split, arrays: Any) -> None:
        self._split, self._arrays = split, arrays
        self._root = os.fsencode(split.root)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read-images")
        self._ahead: deque[_Reading] = deque()
        self._plan: Iterator[_Samples] = iter(())
        # Batches inside DALI. It works on our memory, so this is also what keeps that alive.
        self.lately: deque[tuple[npt.NDArray[np.int64], list[Any]]] = deque(maxlen=PREFETCH + 3)

    def start(self, plan: Iterator[_Samples]) -> None:
        self._plan = plan
        self._ahead.clear()

    def __call__(self) -> tuple[Any, ...]:
        while len(self._ahead) < READ_AHEAD and (samples := next(self._plan, None)) is not None:
            self._ahead.append(self._read(samples))
        if not self._ahead:
            raise StopIteration
        samples, files, reads = self._ahead.popleft()
        made = [files, *self._arrays(samples)]
        self.lately.append((samples.indices, made))
        for read in reads:
            read.result()
        return tuple(made)

    def _read(self, samples: _Samples) -> _Reading:
        """Have the files of a batch read, one behind the other into the same memory."""
        rows = self._split.rows[samples.indices]
        paths = [os.path.join(self._root, path) for path in rows["path"].tolist()]
        ends = np.cumsum(rows["bytes"], dtype=np.int64)
        files = np.split(np.empty(ends[-1], np.uint8), ends[:-1])
        parts = [slice(start, start + FILES_PER_READ) for start in range(0, len(files), FILES_PER_READ)]
        return _Reading(
            samples, files, [self._readers.submit(_read_files, paths[part], files[part]) for part in parts]
        )

    def path(self, index: int) -> Path:
        return self._split.path(index)


class _Reading(NamedTuple):
    """A batch whose files are being read."""

    samples: _Samples
    files: list[npt.NDArray[np.uint8]]  # filled when `reads` are done
    reads: list[Future[None]]


def _read_files(paths: list[bytes], files: list[npt.NDArray[np.uint8]]) -> None:
    for path, file in zip(paths, files, strict=True):
        _read_file(path, file)


def _read_file(path: bytes, into: npt.NDArray[np.uint8]) -> None:
    """Fill `into` with a file. Its crop windows follow from the manifest, so it must still be the same file."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            length = 0  # one byte more than expected is asked for: a file that has it has grown
            while length <= len(into) and (more := os.readv(file, [into.data[length:], bytearray(1)])):
                length += more
            size = length if length <= len(into) else os.fstat(file).st_size
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(
            f"the image {os.fsdecode(path)} cannot be read: {error.strerror}; restore it and start again"
        ) from None
    if size != len(into):
        raise DataError(
            f"the image {os.fsdecode(path)} has {size:,} bytes and was prepared with {len(into):,}; restore it, or "
            "move it out with `trainer check --quarantine`, and start again"
        )


def _batches(graph: Graph, feed: _Feed) -> Iterator[Batch]:
    """Batches of `graph` as torch tensors; stops when its feed does."""
    try:
        iterator = DALIGenericIterator([graph.last], ["images", "labels"], size=-1, auto_reset=False)
        for (made,) in iterator:
            yield Batch(made["images"].permute(0, 3, 1, 2), made["labels"].flatten())
    except RuntimeError as error:
        named = _named(feed)
        if named is None:
            raise
        raise named from error


def _named(feed: _Feed) -> DataError | None:
    """The file that broke the graph: DALI's decoders do not say which one it was."""
    from PIL import Image

    for path in (feed.path(index) for indices, _ in feed.lately for index in indices):
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as reason:
            return DataError(
                f"the image {path} cannot be decoded ({reason}); remove or restore it and start again"
            )
    return None
