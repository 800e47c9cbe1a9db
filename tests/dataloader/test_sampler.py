"""Order and draws as pure functions of seed, epoch and step."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from trainer.dataloader import epoch_order, repeated, step_draws


@given(seed=st.integers(), epoch=st.integers(0, 1000), count=st.integers(1, 300))
def test_an_epoch_has_every_image_exactly_once(seed: int, epoch: int, count: int) -> None:
    assert sorted(epoch_order(seed, epoch, count)) == list(range(count))


@given(seed=st.integers(), step=st.integers(0, 10**7), size=st.integers(1, 50), draws=st.integers(1, 50))
def test_any_seed_gives_draws_of_each_position(seed: int, step: int, size: int, draws: int) -> None:
    made = step_draws(seed, step, size, draws)

    assert made.shape == (size, draws)
    assert (made >= 0).all()
    assert (made < 1).all()
    assert (made == step_draws(seed, step, size, draws)).all()


def test_order_differs_between_epochs_and_seeds_and_repeats_itself() -> None:
    first = epoch_order(0, 0, 1000)

    assert (first == epoch_order(0, 0, 1000)).all()
    assert (first == epoch_order(0, 1, 1000)).mean() < 0.02
    assert (first == epoch_order(1, 0, 1000)).mean() < 0.02


def test_negative_and_huge_seeds_have_an_order_and_draws_of_their_own() -> None:
    seeds = [0, 1, -1, -2, 2**63, 2**64, 2**64 - 1, -(2**64), 10**30]

    assert len({epoch_order(seed, 0, 100).tobytes() for seed in seeds}) == len(seeds)
    assert len({step_draws(seed, 0, 10, 4).tobytes() for seed in seeds}) == len(seeds)


def test_the_order_is_the_same_in_every_release() -> None:
    """A run that is resumed by a newer release, with another NumPy, must go on with the same order."""
    assert epoch_order(0, 0, 8).tolist() == [7, 4, 2, 6, 5, 0, 1, 3]
    assert epoch_order(-7, 3, 1_281_167)[:4].tolist() == [487025, 981283, 75214, 594489]
    assert step_draws(0, 0, 2, 2).tolist() == [
        [0.8677138611563892, 0.6105935386292665],
        [0.9975356916313611, 0.8674752455108325],
    ]
    assert step_draws(-7, 112_590, 1024, 41)[1023, 40] == 0.32064621071279853


def test_a_uniform_number_is_what_numpys_generator_makes_of_the_same_bits() -> None:
    """Today's formula of NumPy. If it changes there, ours stays, and this test goes."""
    philox = np.random.Philox(key=5, counter=[0, 9, 0, 2])

    assert (step_draws(5, 9, 30, 7) == np.random.Generator(philox).random((30, 7))).all()


@pytest.mark.parametrize("seed", [0, -1, 2**70])
def test_order_and_draws_and_their_neighbours_are_different_streams(seed: int) -> None:
    """No epoch's order is made of the numbers of a step, and no step or epoch repeats those of another."""
    count = 1000
    ranks = [np.argsort(step_draws(seed, step, count, 1)[:, 0]) for step in range(4)]
    ranks += [epoch_order(seed, epoch, count) for epoch in range(4)]
    draws = [step_draws(seed, step, count, 1)[:, 0] for step in range(4)]

    for index, one in enumerate(ranks):
        for other in ranks[index + 1 :]:
            assert (one == other).mean() < 0.02
    for now, later in pairwise(draws):
        assert not np.isin(now, later).any()


def test_draws_are_spread_evenly() -> None:
    draws = step_draws(0, 0, 20_000, 4)

    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert np.abs(counts / counts.mean() - 1).max() < 0.1
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.05


def test_draws_of_neighbouring_steps_are_independent() -> None:
    draws = np.stack([step_draws(0, step, 20_000, 1)[:, 0] for step in range(4)])

    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.05


@pytest.mark.parametrize("repeats", [1, 3, 4])
def test_repeated_augmentation_has_the_global_batches_of_timms_sampler(repeats: int) -> None:
    """On four GPUs, from the same order. timm's is torchvision's (references/classification/sampler.py), and DeiT's."""
    count, batch, gpus = 1024, 128, 4
    samplers = [
        RepeatAugSampler(range(count), num_replicas=gpus, rank=rank, num_repeats=repeats, selected_round=256)
        for rank in range(gpus)
    ]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
    shares = np.array([list(sampler) for sampler in samplers]).reshape(gpus, count // batch, batch // gpus)

    for step in range(count // batch):
        ours = repeated(order, repeats, step * batch, batch)
        assert sorted(ours) == sorted(shares[:, step].flatten()), "the same images, each as often"
        if batch % repeats == 0:
            for share in ours.reshape(gpus, -1):
                assert len(set(share)) == len(share), "never twice on one GPU, where mixup would mix them"


@given(repeats=st.integers(1, 5), count=st.integers(10, 200), batch=st.integers(1, 10))
def test_an_epoch_of_repeated_augmentation_has_each_image_as_often_but_the_last(
    repeats: int, count: int, batch: int
) -> None:
    order, steps = epoch_order(0, 0, count), count // batch
    seen = np.concatenate([repeated(order, repeats, step * batch, batch) for step in range(steps)])
    images, often = np.unique(seen, return_counts=True)

    assert len(images) == -(-len(seen) // repeats)
    assert (often == repeats).sum() >= len(images) - 1
    assert set(images) == set(order[: len(images)])
