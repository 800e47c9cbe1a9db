"""What is saved is what was measured, loaded back and measured again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tracking.models import INFO, SAMPLES, VAL_IMAGES, finished_run, network, rebuild, register_it
from trainer.errors import TrackingError
from trainer.tracking import Sample, load_model, register, save_model, tracking_uri
from trainer.tracking._saved_model import release
from trainer.tracking._server import connect


def test_the_registered_model_answers_bit_for_bit_like_the_measured_one(runs: Path) -> None:
    model, measured = network(), []
    images = torch.randn(64, 3, 16, 16).to(memory_format=torch.channels_last)

    def measure(loaded: torch.nn.Module) -> tuple[float, float]:
        measured.append(loaded)
        return 0.5, 1.0

    save_model(
        finished_run(runs / "r"),
        model,
        INFO,
        SAMPLES,
        measure,
        rebuild=rebuild,
        name="tiny",
        num_images=VAL_IMAGES,
    )
    register(runs / "r")

    loaded = load_model("models:/tiny@candidate", runs=runs)
    for module in (*measured, rebuild(loaded.state_dict)):
        for batch in (1, 2, 7, 64):
            with torch.inference_mode():
                torch.testing.assert_close(module(images[:batch]), model(images[:batch]), rtol=0, atol=0)
    assert len(measured) == 1
    assert (loaded.info, list(loaded.samples)) == (INFO, SAMPLES)
    assert loaded.state_dict.keys() == model.state_dict().keys()


def test_a_model_in_train_mode_is_left_so_and_registered_in_eval_mode(runs: Path) -> None:
    model, images = network().train(), torch.randn(8, 3, 16, 16)

    register_it(finished_run(runs / "r"), model)

    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    loaded = rebuild(load_model("models:/tiny@candidate", runs=runs).state_dict)
    torch.testing.assert_close(loaded(images), model.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    "measured", [(0.5 - 2 / VAL_IMAGES, 1.0), (0.5, 1.0 - 2 / VAL_IMAGES), (float("nan"), 1.0)]
)
def test_a_model_that_measures_otherwise_is_not_registered(runs: Path, measured: tuple[float, float]) -> None:
    with pytest.raises(TrackingError, match="it is not registered"):
        register_it(finished_run(runs / "r"), network(), measured=measured)

    with pytest.raises(TrackingError, match="has no model/ to register"):
        register(runs / "r")
    assert connect(tracking_uri(runs)).search_registered_models() == []


def test_one_image_may_be_judged_otherwise(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network(), measured=(0.5 - 1 / VAL_IMAGES, 1.0))

    assert load_model("models:/tiny@candidate", runs=runs).registered.version == 1


def test_photos_of_the_same_name_are_all_kept(runs: Path) -> None:
    register_it(
        finished_run(runs / "r"),
        network(),
        samples=[Sample("a.JPEG", b"one", 0), Sample("a.JPEG", b"two", 1)],
    )

    samples = load_model("models:/tiny/1", runs=runs).samples
    assert [(sample.jpeg, sample.label) for sample in samples] == [(b"one", 0), (b"two", 1)]
    assert {sample.name for sample in samples} == {"a.JPEG"}


@pytest.mark.parametrize(
    "version", ["2.14.0", "2.14.0+cu130", "2.14.0a0+4fdf77b940.nv26.08", "2.14.0.dev2026"]
)
def test_the_models_requirements_name_a_release_that_can_be_installed(version: str) -> None:
    assert release(version) == "2.14.0"
