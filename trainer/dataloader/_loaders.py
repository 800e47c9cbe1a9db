"""The batches of training and validation.

    sampler           crops, augmentations        reader                  pipelines (DALI)         loader
    order, draws  ->  windows, parameters     ->  bytes, read ahead   ->  decode … normalise   ->  Batch

Python decides which images make a batch, in which order, and with which crop (`_sampler`, `_crops`,
`_augment`); all of it follows from (seed, step). Threads read the files ahead (`_reader`), and DALI's
pipelines do everything to pixels (`_pipelines`). So a loader has no state worth saving: it starts at any
step.
"""

# DALI does not type its iterator.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from trainer.config import Decoder, Execution, Preprocess, Recipe
from trainer.dataloader._augment import make_augmentations
from trainer.dataloader._augmentation import Augmentation
from trainer.dataloader._crops import CROP_DRAWS, centre_crops, random_resized_crops
from trainer.dataloader._pipelines import (
    BATCHES_IN_USE,
    build_pipelines,
    decoding_pipeline,
    default_decoder,
    pipeline_options,
    train_stages,
    val_stages,
)
from trainer.dataloader._reader import MAX_PIXELS, PlannedBatch, Reader
from trainer.dataloader._sampler import epoch_order, repeated, step_draws
from trainer.dataset import Split
from trainer.distributed import World
from trainer.errors import DataError


class Batch(NamedTuple):
    """Images and labels on the device they were made for."""

    images: torch.Tensor  # (N, 3, H, W), channels-last, normalised
    labels: torch.Tensor  # (N,) int64
    targets: torch.Tensor | None = None  # (N, classes) share of each class, in mixed images
    indices: torch.Tensor | None = (
        None  # (N,) int64, on the CPU: positions in the split; None: not of a split
    )


class Stretch(NamedTuple):
    """Steps whose crops are made alike, by the same pipelines."""

    first: int  # step
    last: int  # step after the last one
    size: int  # side of the crops, in pixels
    preprocess: Preprocess
    augmentations: list[Augmentation]


class TrainLoader:
    """Endless training batches, each a pure function of (seed, step, micro-step, rank).

    A step's global batch has the same images with the same crops at any number of processes. This process
    gets its share of it in `accumulation_steps` micro-batches.
    """

    def __init__(
        self,
        split: Split,
        recipe: Recipe,
        world: World,
        execution: Execution = Execution(),
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Plan the batches; pipelines are built when batches are asked for.

        Args:
            split: the training images.
            recipe: order, crops and augmentations.
            world: this process's rank, and the device of its batches.
            execution: size of a micro-batch, and where JPEGs are decoded.
            dtype: of the images, float16 or float32.
        """
        self._split, self._recipe, self._world, self._dtype = split, recipe, world, dtype
        self._decoder: Decoder = execution.decoder or default_decoder(world)
        self.steps_per_epoch = recipe.steps_per_epoch(len(split))
        self.accumulation_steps = recipe.accumulation_steps(world.size, execution.batch_per_gpu)
        self.micro_batch = recipe.micro_batch(world.size, execution.batch_per_gpu)
        self._order = lru_cache(maxsize=1)(lambda epoch: epoch_order(recipe.seed, epoch, len(split)))

    def indices(self, step: int, micro_step: int) -> npt.NDArray[np.int64]:
        """Positions in the split of the images of a micro-batch on this process, (micro_batch,)."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start = step_of_epoch * self._recipe.global_batch
        recipe = self._recipe
        global_batch = repeated(self._order(epoch), recipe.repeated_augmentation, start, recipe.global_batch)
        return global_batch[self._positions(micro_step)]

    def batches(self, *, first_step: int, last_step: int) -> Iterator[Batch]:
        """Micro-batches of the steps from `first_step` up to, not including, `last_step`.

        Raises: DataError naming the file when one cannot be read or decoded.
        """
        for number, stretch in enumerate(self._stretches(first_step, last_step)):
            if number:
                gc.collect()  # frees the last pipelines (a reference cycle) with their threads and GPU memory
            reader = self._reader(stretch)
            stages = train_stages(
                reader, stretch.augmentations, size=stretch.size, decoder=self._decoder, dtype=self._dtype
            )
            pipelines = build_pipelines(stages, conditionals=bool(stretch.augmentations), **self._options())
            yield from _batches(pipelines, reader)
            del pipelines, stages, reader

    def crops(self, *, first_step: int, last_step: int) -> Iterator[Any]:
        """Decoded crops in their own sizes, as DALI's lists, to measure reading and decoding alone."""
        preprocess = self._recipe.preprocess
        stretch = Stretch(
            first_step, last_step, preprocess.train_size, preprocess, make_augmentations(preprocess)
        )
        reader = self._reader(stretch)
        stages = train_stages(reader, stretch.augmentations, size=stretch.size, decoder=self._decoder)
        pipeline = decoding_pipeline(stages, **self._options())
        while True:
            try:
                yield pipeline.run()
            except StopIteration:
                return

    def _stretches(self, first_step: int, last_step: int) -> Iterator[Stretch]:
        """These steps, cut where the crops grow or a phase makes them otherwise."""

        def of(epoch: int) -> tuple[int, Preprocess]:
            return self._recipe.train_size(epoch), self._recipe.at(epoch).preprocess

        while first_step < last_step:
            epoch = first_step // self.steps_per_epoch
            size, preprocess = of(epoch)
            # Beyond the recipe's epochs, where a benchmark may go, all stays.
            ends = (e for e in range(epoch + 1, self._recipe.epochs) if of(e) != (size, preprocess))
            end = min(last_step, next((e * self.steps_per_epoch for e in ends), last_step))
            yield Stretch(first_step, end, size, preprocess, make_augmentations(preprocess))
            first_step = end

    def _options(self) -> dict[str, Any]:
        return pipeline_options(self.micro_batch, self._world)

    def _positions(self, micro_step: int) -> slice:
        """Positions in the global batch of a micro-batch on this process."""
        start = (micro_step * self._world.size + self._world.rank) * self.micro_batch
        return slice(start, start + self.micro_batch)

    def _reader(self, stretch: Stretch) -> Reader:
        reader = Reader(self._split, kept=BATCHES_IN_USE, decoder=self._decoder)
        reader.start(self._plan(stretch))
        return reader

    def _plan(self, stretch: Stretch) -> Iterator[PlannedBatch]:
        """The micro-batches of this process, with the inputs of `train_stages`."""
        recipe = self._recipe
        columns = CROP_DRAWS + 1 + sum(augmentation.draws for augmentation in stretch.augmentations)
        for step in range(stretch.first, stretch.last):
            draws = step_draws(recipe.seed, step, recipe.global_batch, columns)
            for micro_step in range(self.accumulation_steps):
                indices = self.indices(step, micro_step)
                arrays = self._arrays(indices, draws[self._positions(micro_step)], stretch)
                yield from PlannedBatch(indices, arrays).pieces(self._split.sizes[indices].prod(axis=1))

    def _arrays(
        self, indices: npt.NDArray[np.int64], draws: npt.NDArray[np.float64], stretch: Stretch
    ) -> tuple[npt.NDArray[Any], ...]:
        """Inputs of `train_stages` for these images, from their draws (N, …): crop, flip, augmentations."""
        preprocess = stretch.preprocess
        crop, flip, rest = draws[:, :CROP_DRAWS], draws[:, CROP_DRAWS], draws[:, CROP_DRAWS + 1 :]
        anchors, shapes = random_resized_crops(self._split.sizes[indices], crop, preprocess)
        sizes = np.full((len(indices), 2), stretch.size, np.float32)
        mirror = ((flip < 0.5) & preprocess.flip).astype(np.int32)
        params = []
        for augmentation in stretch.augmentations:
            params.append(augmentation.make_params(rest[:, : augmentation.draws], stretch.size))
            rest = rest[:, augmentation.draws :]
        return anchors, shapes, sizes, self._split.labels[indices], mirror, *params


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
        """Build the pipelines.

        Args:
            split: the images of all processes.
            preprocess: size of the images.
            world: this process's rank, and the device of its batches.
            batch: images in a batch, at most.
            decoder: where JPEGs are decoded; None: on the GPU where there is one.
        """
        self._split, self._preprocess, self._batch = split, preprocess, batch
        self.num_images = len(split)  # of all processes together
        self._indices = np.arange(world.rank, len(split), world.size, dtype=np.int64)
        self.rounds = -(-len(split) // (world.size * batch))  # batches of the process that has most
        decoder = decoder or default_decoder(world)
        self._reader = Reader(split, kept=BATCHES_IN_USE, decoder=decoder)
        stages = val_stages(self._reader, size=preprocess.val_size, decoder=decoder)
        self._pipelines = build_pipelines(stages, **pipeline_options(batch, world))

    def __iter__(self) -> Iterator[Batch]:
        """One pass, with `indices`. Raises: DataError naming the file when one cannot be read or decoded."""
        if not len(self._indices):
            return  # fewer images than processes
        self._reader.start(self._plan())
        yield from _batches(self._pipelines, self._reader)
        for pipeline in self._pipelines:
            pipeline.reset()

    def _plan(self) -> Iterator[PlannedBatch]:
        """The batches of this process, with the inputs of `val_stages`."""
        for start in range(0, len(self._indices), self._batch):
            indices = self._indices[start : start + self._batch]
            sizes, positions = centre_crops(self._split.sizes[indices], self._preprocess)
            left, top = np.ascontiguousarray(positions.T)  # DALI takes no strides
            arrays = (np.ascontiguousarray(sizes), self._split.labels[indices], left, top)
            pixels = np.maximum(self._split.sizes[indices].prod(axis=1), sizes.astype(np.int64).prod(axis=1))
            if pixels.max() > MAX_PIXELS:  # `prepare` takes no such image; a manifest may be older
                name = self._split.path(indices[pixels.argmax()])
                raise DataError(
                    f"the image {name} is made {pixels.max():,} pixels large to be validated; make "
                    "preprocess.val_resize smaller, or prepare the data set again, which leaves out long strips"
                )
            yield from PlannedBatch(indices, arrays).pieces(pixels)


def _batches(pipelines: list[Pipeline], reader: Reader) -> Iterator[Batch]:
    """Batches of the last pipeline as torch tensors, until the reader's plan ends."""
    pieces: list[Batch] = []
    try:
        iterator = DALIGenericIterator([pipelines[-1]], ["images", "labels"], size=-1, auto_reset=False)
        for (out,) in iterator:
            planned = reader.next_planned()
            pieces.append(
                Batch(
                    images=out["images"].permute(0, 3, 1, 2),  # a view: memory in HWC is channels-last
                    labels=out["labels"].flatten(),
                    indices=torch.from_numpy(planned.indices),
                )
            )
            if planned.ends:
                yield _joined(pieces)
                pieces = []
    except RuntimeError as error:
        culprit = reader.in_hand.culprit()
        if culprit is None:
            raise
        raise culprit from error


def _joined(pieces: list[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    images, labels, _, indices = zip(*pieces, strict=True)
    return Batch(torch.cat(images), torch.cat(labels), indices=torch.cat(indices))
