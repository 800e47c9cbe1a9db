"""Order and luck as pure functions of (seed, epoch, sample)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataloader import epoch_order, uniform


@given(seed=st.integers(), epoch=st.integers(0, 1000), count=st.integers(1, 300))
def test_an_epoch_has_every_sample_exactly_once(seed, epoch, count):
    assert sorted(epoch_order(seed, epoch, count)) == list(range(count))


def test_order_differs_between_epochs_and_seeds_and_repeats_itself():
    first = epoch_order(0, 0, 1000)

    assert (first == epoch_order(0, 0, 1000)).all()
    assert (first == epoch_order(0, 1, 1000)).mean() < 0.02
    assert (first == epoch_order(1, 0, 1000)).mean() < 0.02


def test_the_order_is_the_same_in_every_release():
    """A run that is resumed by a newer release must go on with the same order."""
    assert epoch_order(0, 0, 8).tolist() == [1, 6, 5, 4, 3, 7, 2, 0]
    assert np.allclose(
        uniform(0, 0, np.array([0, 1]), 2), [[0.42161598, 0.67346626], [0.60882767, 0.26571297]]
    )


def test_a_sample_has_its_own_luck_whatever_batch_it_is_in():
    together = uniform(3, 7, np.arange(100), 5)

    assert (uniform(3, 7, np.array([42, 17]), 5) == together[[42, 17]]).all()


def test_luck_is_spread_evenly():
    draws = uniform(0, 0, np.arange(20_000), 4)

    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert np.abs(counts / counts.mean() - 1).max() < 0.1
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.05
