"""Which image stands where in an epoch, and the random numbers of each position in a global batch.

Order and draws are pure functions of the recipe's seed and of the epoch or step: there is no state to save,
and they are the same at any number of processes and accumulation steps, and after any restart. A process
takes its rows of both by position in the global batch.

The generator is NumPy's Philox, which is counter-based: its key is the seed, and its 256-bit counter says
where in which stream a number stands, as (block, epoch or step, 0, stream). Streams cannot overlap.

A run may go on with another NumPy. NumPy guarantees across versions what a BitGenerator yields
(`Philox.random_raw`), and gives no such guarantee for the methods of `Generator`: `permutation` and `random`
may change (NEP 19, and numpy.org/doc/stable/reference/random/compatibility.html). So only `random_raw` is
used here, and the few lines that make an order and uniform numbers of it are ours.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ORDER, _DRAWS = 1, 2  # streams


def epoch_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """A permutation of `range(count)`, another one for each epoch.

    Args:
        seed: the recipe's; any integer.
        epoch: 0-based.
        count: images in the split.

    Returns: int64 array (count,): the image at each position of the epoch.
    """
    return np.argsort(_bits(seed, _ORDER, epoch, count), kind="stable")


def repeated(
    order: npt.NDArray[np.int64], repeats: int, first: int, global_batch: int
) -> npt.NDArray[np.int64]:
    """A global batch in which each image of the epoch stands `repeats` times, to be cropped in as many ways.

    Each image stands once in the batch before any stands there again: so its copies come to other processes or
    micro-batches where these are small enough, as they come to other GPUs in the samplers of timm and torchvision, and
    mixup does not mix an image with itself.

    Args:
        order: the epoch's, (count,).
        repeats: of each image; 1 leaves the order as it is.
        first: position in the epoch at which the batch begins, counted with copies.
        global_batch: images in it.

    Source: Hoffer et al. 2019, arXiv:1901.09335; Berman et al. 2019, arXiv:1902.05509; timm.data's RepeatAugSampler.
    """
    positions = np.arange(first, first + global_batch)
    copies = np.concatenate([positions[copy::repeats] for copy in range(repeats)])
    chosen: npt.NDArray[np.int64] = order[copies // repeats]
    return chosen


def step_draws(seed: int, step: int, global_batch: int, draws: int) -> npt.NDArray[np.float64]:
    """Uniform random numbers in [0, 1) for each position of a step's global batch.

    Args:
        seed: the recipe's; any integer.
        step: 0-based, counted over the whole run, so that it says the epoch as well.
        global_batch: images in the step, all processes together.
        draws: numbers for one image.

    Returns: float64 array (global_batch, draws), multiples of 2**-53.
    """
    bits = _bits(seed, _DRAWS, step, global_batch * draws)
    uniform: npt.NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform.reshape(global_batch, draws)


def _bits(seed: int, stream: int, index: int, count: int) -> npt.NDArray[np.uint64]:
    """The first `count` words of 64 bits of a stream for this epoch or step."""
    return np.random.Philox(key=seed % 2**128, counter=[0, index, 0, stream]).random_raw(count)
