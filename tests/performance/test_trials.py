"""Trials of several processes: each step is one of all of them, so they must try the same, in the same order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.dataset import Dataset

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from trainer.config import load_recipe
from trainer.dataset import open_dataset
from trainer.distributed import join_world
from trainer.performance import measure

settings = ["model=tests.nets:Small", "global_batch=8", "preprocess.train_size=32"]
with join_world("cpu", timeout=60) as world:
    def compiled(model, *, mode, dynamic):
        if world.rank == 1:
            raise RuntimeError("only here")
        return model
    torch.compile = compiled
    split = open_dataset(Path(sys.argv[1])).train
    result = measure(load_recipe("digits", settings), split, world, steps=2, short_run=0)
    Path(sys.argv[2], str(world.rank)).write_text(json.dumps([result.execution.batch_per_gpu, result.execution.compile,
        result.execution.decoder, sorted(result.throughputs)]))
"""


@pytest.mark.slow
def test_what_fails_in_one_process_is_chosen_in_none(dataset: Dataset, tmp_path: Path) -> None:
    """The first process could compile: it must not train with what the second cannot."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "out").mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, str(program), str(dataset.root), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr[-2000:]
    found = [json.loads((tmp_path / "out" / rank).read_text()) for rank in "01"]
    assert found == [[4, "off", "cpu", ["cpu", "off"]]] * 2
    assert "default does not run here" in run.stderr
