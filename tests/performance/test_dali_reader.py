"""DALI's own reader, as a baseline."""

import torch

from tests.conftest import ALONE
from trainer.config import Recipe
from trainer.dataloader import TrainLoader
from trainer.dataset import Dataset
from trainer.performance._dali_reader import file_reader_batches


def test_dalis_own_reader_makes_batches_of_the_same_kind(dataset: Dataset, tiny: Recipe) -> None:
    ours = next(TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=1))
    theirs = file_reader_batches(dataset.train, tiny.preprocess, ALONE, batch=8, seed=0)
    batches = [next(theirs) for _ in range(5)]  # two epochs: it does not end

    for batch in batches:
        assert batch.images.shape == ours.images.shape
        assert batch.images.stride() == ours.images.stride()
        assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int32)
        assert 0.2 < batch.images.std() < 2.5
    assert {label for batch in batches for label in batch.labels.tolist()} == {0, 1}
