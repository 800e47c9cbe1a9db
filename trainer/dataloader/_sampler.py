"""Who comes when, and with which luck: pure functions of (seed, epoch, sample).

A counter-based hash stands in for a generator with state, so there is nothing to save and the
answer is the same on any machine, at any number of processes and after any restart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ORDER, _LUCK = 1, 2  # streams, so that order and augmentation do not share numbers


def epoch_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """A permutation of `range(count)`, another one each epoch.

    Returns: int64 array (count,).
    """
    keys = _hash(seed, _ORDER, epoch, np.arange(count, dtype=np.uint64))
    return np.argsort(keys, kind="stable")


def uniform(seed: int, epoch: int, samples: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1) that belong to each sample in this epoch.

    Returns: float64 array (len(samples), draws).
    """
    keys = _hash(seed, _LUCK, epoch, samples.astype(np.uint64)[:, None])
    bits = _mix(keys ^ np.arange(1, draws + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hash(seed: int, stream: int, epoch: int, samples: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = np.zeros(1, np.uint64)
    for part in (seed, stream, epoch):
        state = _mix(state ^ np.uint64(part % 2**64))
    return _mix(state ^ samples)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195): a bijection that scatters bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
