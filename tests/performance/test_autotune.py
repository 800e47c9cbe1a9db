"""How a machine is found out: by trying, and only what is left open."""

import time
from dataclasses import replace

import pytest
import torch

from tests.conftest import ALONE
from tests.nets import Small
from trainer.performance import Choice, choose, defaults, measure


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("trainer.performance._trial.build", lambda name, classes, **_: Small(classes))


@pytest.fixture
def open_recipe(tiny):
    return replace(tiny, batch_per_gpu="auto", speed="auto")


def test_what_does_not_run_here_is_told_and_not_chosen(open_recipe, dataset, monkeypatch):
    def compiler_fails(model, speed):
        if speed != "eager":
            raise RuntimeError("no compiler\nhere")
        return model

    monkeypatch.setattr("trainer.training._step.compiled", compiler_fails)
    told = []
    choice = measure(open_recipe, dataset.train, ALONE, decoder=None, tell=told.append, steps=1)

    assert (choice.batch_per_gpu, choice.speed, choice.decoder) == (8, "eager", "cpu")
    assert told[:2] == [
        f"{name} does not run here (RuntimeError: no compiler)" for name in ("compile", "graphs")
    ]
    assert [line.split()[0] for line in told[2:]] == ["mixed", "mixed-huffman"]  # there is no GPU
    assert set(choice.tried) == {"eager", "cpu"}
    assert choice.of(open_recipe) == replace(open_recipe, batch_per_gpu=8, speed="eager")


def test_the_fastest_is_chosen(open_recipe, dataset, monkeypatch):
    speeds = {"eager": 0.15, "compile": 0.0, "graphs": 0.3}

    def slowed(model, speed):
        def network(images):
            time.sleep(speeds[speed])
            return model(images)

        return network

    monkeypatch.setattr("trainer.training._step.compiled", slowed)
    choice = measure(open_recipe, dataset.train, ALONE, decoder="cpu", tell=print, steps=2)

    assert choice.speed == "compile"
    assert choice.tried["eager"] > choice.tried["graphs"]


def test_when_time_is_over_what_was_tried_decides(open_recipe, dataset):
    choice = measure(open_recipe, dataset.train, ALONE, decoder="cpu", tell=print, steps=1, timeout=0)

    assert choice.tried.keys() == {"eager"}


def test_what_the_recipe_settles_is_not_tried(tiny, dataset):
    settled = replace(tiny, batch_per_gpu=4, speed="eager")

    assert measure(settled, dataset.train, ALONE, decoder="cpu", tell=print) == Choice(4, "eager", "cpu")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA's"), RuntimeError("unable to find an engine")]
)
def test_a_batch_that_does_not_fit_is_halved(open_recipe, dataset, monkeypatch, error):
    run = Small.forward

    def forward(self, images):
        if len(images) > 2:
            raise error
        return run(self, images)

    monkeypatch.setattr(Small, "forward", forward)

    assert measure(open_recipe, dataset.train, ALONE, decoder="cpu", tell=print).batch_per_gpu == 2


def test_where_not_even_one_image_fits_it_is_said_why(open_recipe, dataset, monkeypatch):
    def forward(self, images):
        raise RuntimeError("a layer is wrong")

    monkeypatch.setattr(Small, "forward", forward)

    with pytest.raises(
        RuntimeError, match="not even one image at a time can be trained: RuntimeError: a layer is wrong"
    ):
        measure(open_recipe, dataset.train, ALONE, decoder="cpu", tell=print)


def test_on_the_cpu_nothing_is_tried(open_recipe, dataset, tmp_path):
    choice = choose(open_recipe, dataset.train, ALONE, tmp_path, decoder=None, tell=print)

    assert choice == Choice(64, "eager", "cpu") == defaults(open_recipe, None)
    assert not list(tmp_path.iterdir())


def test_on_a_gpu_the_choice_is_remembered_for_its_kind_and_for_what_was_asked(
    open_recipe, dataset, tmp_path, monkeypatch
):
    """A GPU as far as its name goes."""
    measured, named = [], "NVIDIA A10G"

    def pretended(recipe, split, world, **_):
        measured.append(recipe.speed)
        return Choice(256, "compile", "mixed", {"eager": 1.0})

    gpu = replace(ALONE, device=torch.device("cuda", 0))
    monkeypatch.setattr("trainer.performance._autotune.measure", pretended)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: named)
    told = []

    def chosen(recipe, cores=4):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
        return choose(recipe, dataset.train, gpu, tmp_path, decoder=None, tell=told.append)

    first = chosen(open_recipe)
    assert chosen(open_recipe) == first
    assert len(measured) == len(told) == 1
    assert "256 images at a time, compile, decoded on mixed; images/s tried: eager 1" in told[0]

    chosen(replace(open_recipe, speed="eager"))
    chosen(open_recipe, cores=48)
    named = "Tesla T4"
    chosen(open_recipe)
    assert len(measured) == 4
