"""Recipes as nobody would write them, on images as they come: one sentence, or the whole way to the bundle."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import write_odd_files, write_photo
from trainer.cli import main
from trainer.dataset import folder, prepare

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "classes": None,
    "model": "resnet18",
    "epochs": 1,
    "global_batch": 8,
    "schedule.warmup_epochs": 0,
    "log_every": 1,
}
SMALL |= {"preprocess.train_size": 32, "preprocess.val_size": 32, "preprocess.val_resize": 36}
SIDES = st.integers(1, 64)
SHARES = st.floats(0, 1)
NUMBERS = st.one_of(st.floats(0, 10), st.sampled_from((0, 1, 1e-30, 1e30, -1, "nan", "inf", "x", None)))
SETTINGS: Mapping[str, st.SearchStrategy[Any]] = {
    "epochs": st.integers(0, 2),
    "global_batch": st.integers(1, 10),
    "precision": st.sampled_from(("fp32", "bf16", "fp16")),
    "zero_init_residual": st.booleans(),
    "loss": st.sampled_from(("cross_entropy", "binary_cross_entropy")),
    "label_smoothing": NUMBERS,
    "mixup": NUMBERS,
    "cutmix": NUMBERS,
    "ema_decay": SHARES,
    "ema_steps": st.integers(0, 5),
    "seed": st.integers(-(2**70), 2**70),
    "preprocess.train_size": SIDES,
    "preprocess.min_res": st.one_of(st.none(), SIDES),
    "preprocess.res_step": SIDES,
    "preprocess.val_size": SIDES,
    "preprocess.val_resize": SIDES,
    "preprocess.crop_area": st.lists(SHARES, min_size=2, max_size=2).map(sorted),
    "preprocess.crop_ratio": st.lists(st.floats(0.01, 100), min_size=2, max_size=2).map(sorted),
    "preprocess.flip": st.booleans(),
    "preprocess.augment": st.sampled_from(("none", "randaugment", "trivialaugment")),
    "preprocess.randaugment_ops": st.integers(1, 4),
    "preprocess.randaugment_magnitude": st.integers(0, 31),
    "preprocess.color_jitter": st.lists(st.floats(0, 2), min_size=4, max_size=4),
    "preprocess.erasing": SHARES,
    "optimizer.name": st.sampled_from(("sgd", "adamw")),
    "optimizer.base_lr": NUMBERS,
    "optimizer.momentum": SHARES,
    "optimizer.nesterov": st.booleans(),
    "optimizer.weight_decay": NUMBERS,
    "optimizer.clip_norm": NUMBERS,
    "schedule.name": st.sampled_from(("cosine", "linear", "step", "onecycle")),
    "schedule.warmup_epochs": st.floats(0, 2),
    "schedule.milestones": st.lists(SHARES, max_size=3),
    "schedule.gamma": SHARES,
    "schedule.pct_start": SHARES,
    "schedule.div_factor": NUMBERS,
    "schedule.final_div_factor": NUMBERS,
    "registered_model_name": st.text(max_size=20).filter(lambda text: "\0" not in text),
}
CHOSEN = st.lists(st.sampled_from(sorted(SETTINGS)), max_size=6, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: SETTINGS[key] for key in keys})
)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey, palette, CMYK, rotated and ordinary images in classes with odd names."""
    root = tmp_path_factory.mktemp("odd")
    for seed, split in enumerate(("train", "val")):
        for name in ("[red]", "猫 #1"):
            write_odd_files(root / split / name)
            for number in range(2):
                write_photo(root / split / name / f"a {number}.jpg", seed=10 * seed + number)
    prepare(folder(root, out=root), root)
    return root


def called(*arguments: Any) -> str:
    """What a command prints; "" if it refuses, in one sentence."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    if code:
        said = [line for line in err.getvalue().splitlines() if line.startswith("trainer: ")]
        assert (code, len(said)) == (2, 1), err.getvalue()
        return ""
    return out.getvalue()


def recipe(chosen: Mapping[str, Any]) -> list[str]:
    values = {**SMALL, **chosen}
    return [
        "digits",
        *(word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")),
    ]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(chosen=CHOSEN)
def test_any_recipe_is_planned_or_refused_in_a_sentence(chosen: dict[str, Any], odd: Path) -> None:
    with tempfile.TemporaryDirectory() as runs, contextlib.chdir(runs):
        called("train", *recipe(chosen), "--data", odd, "--device", "cpu", "--dry-run")


END = [0.0]  # of the next test, which tries as many recipes as there is time for


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a smaller example would take minutes to find
    derandomize=True,
)
@given(chosen=CHOSEN)
def test_what_is_planned_is_trained_measured_registered_and_exported(
    chosen: dict[str, Any], odd: Path
) -> None:
    END[0] = END[0] or time.monotonic() + 40
    if time.monotonic() > END[0]:
        return
    with tempfile.TemporaryDirectory() as runs, contextlib.chdir(runs), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        arguments = [
            "train",
            *recipe(chosen),
            "--data",
            odd,
            "--device",
            "cpu",
            "--batch-per-gpu",
            8,
            "--no-report",
            "--no-export",
        ]
        if not called(*arguments, "--dry-run"):
            return
        run = called(*arguments, "--json")
        if not run:  # a loss that became infinite
            return
        assert called("export", json.loads(run)["model"], "--out", "bundle", "--json"), chosen
        measured = json.loads(called("evaluate", "bundle", "--data", odd, "--device", "cpu", "--json"))
        assert measured["num_images"] == json.loads(run)["num_images"]
