"""What `bench_loader` measures. How fast anything is, is not tested here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import until
from tests.conftest import ALONE
from trainer.config import Recipe, load_recipe
from trainer.dataset import Dataset
from trainer.errors import ConfigError
from trainer.performance import BASELINES, bench_loader
from trainer.performance._bench_loader import cpu_seconds

LOADERS = {"trainer", "trainer_other_seed", "trainer_decode_only", "dali_reader", "torchvision"}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("rn50-baseline", ["global_batch=4"])


@pytest.mark.slow
def test_every_loader_is_measured_in_every_round(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    result = bench_loader(dataset.train, recipe, ALONE, tmp_path, images=8, rounds=2, cold=True)

    assert set(BASELINES) < LOADERS
    assert set(result.by_round) == set(result.median) == LOADERS
    assert set(result.ratio) == LOADERS - {"trainer"}
    assert (result.images, result.images_per_round, result.cold) == (8, 8, True)
    for rounds in result.by_round.values():
        assert len(rounds) == 2
        assert min(one.images_per_second for one in rounds) > 0
        assert min(one.images_per_cpu_second for one in rounds) > 0
    for ratio in result.ratio.values():
        assert ratio.images_per_second > 0
        assert ratio.images_per_cpu_second > 0


@pytest.mark.slow
def test_one_baseline_and_photos_stored_smaller(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    result = bench_loader(
        dataset.train,
        recipe,
        ALONE,
        tmp_path,
        images=8,
        rounds=2,
        shorter_side=(32, 24),
        only=["dali_reader"],
    )

    smaller = {"trainer_shorter_side_24", "trainer_shorter_side_32"}
    assert set(result.by_round) == {"trainer", "dali_reader", *smaller}


def test_an_unknown_loader_names_the_known_ones(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="there are trainer_other_seed, trainer_decode_only, dali_reader, torchvision"
    ):
        bench_loader(dataset.train, recipe, ALONE, tmp_path, images=8, rounds=1, only=["tensorflow"])


def test_the_processor_time_of_children_is_counted() -> None:
    """torchvision's loader works in processes of its own: their time is not free."""
    burn = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\ninput()"
    before = cpu_seconds()
    child = subprocess.Popen(["sh", "-c", f"{sys.executable} -c '{burn}'; true"], stdin=subprocess.PIPE)
    try:
        until(lambda: cpu_seconds() - before > 0.9, seconds=30)
    finally:
        child.communicate(b"\n")
